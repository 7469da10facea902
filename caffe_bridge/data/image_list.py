"""Pictures named in a list file: the source behind the ImageData layer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge.data.datum import read_picture, to_chw
from caffe_bridge.data.source import PlannedSource, read_list
from caffe_bridge.data.transformer import DataTransformer
from caffe_bridge.errors import UnsupportedDataError
from caffe_bridge.graph import LayerSpec, Shape

_FORK_FIELDS = ("min_height", "min_width", "new_dim", "bicubic")
_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class ListPlan:
    """Names and labels of a batch, and the draws of its transformation."""

    items: list[tuple[str, int]]
    draws: np.ndarray | None


class ImageListSource(PlannedSource):
    """Pictures of a list file, one ``name label`` on each line.

    A name may hold blanks: the label is what follows the last one. A line without blank is a
    name with label 0. White space around a line and blank lines are ignored.

    Args:
        spec: an ImageData layer.
        phase: "TRAIN" or "TEST".

    Raises:
        DataError: bad list file, parameters or first picture.
    """

    slow = True
    decodes = True

    def __init__(self, spec: LayerSpec, phase: str) -> None:
        super().__init__(spec)
        p = spec.record.image_data_param
        for name in _FORK_FIELDS:
            if p.has(name):
                raise UnsupportedDataError(
                    f"{spec.label()}: image_data_param.{name} is a fork's and not supported; "
                    "remove it."
                )
        self.size = (int(p.new_width), int(p.new_height))
        if (self.size[0] > 0) != (self.size[1] > 0):
            self.fail("gives only one of new_height and new_width; give both or none.")
        self.color = bool(p.is_color)
        self.root = str(p.root_folder)
        self.shuffle, self.rand_skip = bool(p.shuffle), int(p.rand_skip)
        self.transformer = DataTransformer(spec, phase)
        self.list_file = str(p.source)
        lines = read_list(spec, "image_data_param.source", self.list_file)
        self.items = [self._item(line) for line in lines]
        self._order = np.arange(len(self.items))
        self._at = 0
        self.rewind()
        first = self._picture(self.items[self._order[self._at]][0])
        self._first = tuple(int(d) for d in first.shape)

    def _item(self, line: str) -> tuple[str, int]:
        name, blank, label = line.rpartition(" ")
        if not blank:
            return line, 0
        if not _INTEGER.fullmatch(label):
            self.fail(
                f"line '{line}' of {self.list_file} does not end in an integer label; "
                "write 'name label'."
            )
        return name.rstrip(), int(label)

    def _picture(self, name: str) -> np.ndarray:
        import cv2  # here: loading it takes longer than everything else in the package

        path = self.root + name
        if not Path(path).is_file():
            self.fail(
                f"'{path}' of {self.list_file} does not exist; correct the list or root_folder "
                f"(relative paths count from {Path.cwd()})."
            )
        image = read_picture(path, cv2.IMREAD_COLOR if self.color else cv2.IMREAD_GRAYSCALE)
        if image is None:
            self.fail(f"'{path}' of {self.list_file} is no picture OpenCV can decode; replace it.")
        if self.size[0]:
            image = cv2.resize(image, self.size)
        return to_chw(image, f"{self.spec.label()}: {path}")

    def shapes(self, batch: int) -> list[Shape]:
        """Shapes by the first picture: (batch, C, h, w) and (batch,)."""
        return [(batch, *self.transformer.shape(self._first)), (batch,)]

    def plan(self, batch: int) -> ListPlan:
        """The next names and labels; shuffled anew at every end of the list."""
        items: list[tuple[str, int]] = []
        for item in range(batch * self.ranks):
            if item % self.ranks == self.rank:
                items.append(self.items[self._order[self._at]])
            self._at += 1
            if self._at == len(self.items):
                self._at = 0
                if self.shuffle:
                    self._order = self.rng.permutation(self._order)
        return ListPlan(items, self.transformer.draw(batch, self.rng, self.rank, self.ranks))

    def make(self, plan: ListPlan) -> list[np.ndarray]:
        """Pictures and labels."""
        images = [self._picture(name) for name, _label in plan.items]
        labels = np.array([label for _name, label in plan.items], np.float32)
        return [self.transformer.apply(images, plan.draws), labels]

    def __getstate__(self) -> dict[str, Any]:
        """Without the list, which only plans need and which can be long."""
        return {**self.__dict__, "items": [], "_order": np.zeros(0, np.int64)}

    def state(self) -> dict[str, Any]:
        """Place in the list, its order, and the draws."""
        return {**super().state(), "at": self._at, "order": self._order if self.shuffle else []}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to that place of that order.

        Raises:
            KeyError: the state is another kind of source's.
            DataError: the list has another length than before.
        """
        order, at = np.asarray(state["order"], np.int64), int(state["at"])
        if (self.shuffle and len(order) != len(self.items)) or at >= len(self.items):
            self.fail(f"{self.list_file} has {len(self.items)} items, another number than before.")
        super().set_state(state)
        self._at = at
        self._order = order if self.shuffle else np.arange(len(self.items))

    def rewind(self) -> None:
        """Go to the first picture: shuffle the list and skip up to ``rand_skip`` of it."""
        self._order = np.arange(len(self.items))
        if self.shuffle:
            self.rng.shuffle(self._order)
        self._at = int(self.rng.integers(self.rand_skip)) if self.rand_skip else 0
        if self._at >= len(self.items):
            self.fail(
                f"rand_skip drew {self._at}, the list has {len(self.items)} items; "
                "make rand_skip at most that."
            )
