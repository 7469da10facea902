"""Data bases of Datum records: the source behind the Data layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_bridge.data.datum import decode_datum
from caffe_bridge.data.record_source import Located, RecordSource, open_records
from caffe_bridge.data.source import PlannedSource
from caffe_bridge.data.transformer import DataTransformer
from caffe_bridge.graph import LayerSpec, Shape
from caffe_bridge.schema import decode

#: Decoded images of a data base up to this size stay in memory.
CACHE_BYTES = 64 << 20


def iterate(path: str, backend: str) -> Iterator[tuple[np.ndarray, int]]:
    """Every image (C, H, W) and label of a data base, once, in the order of its keys."""
    reader = open_records(path, backend)
    try:
        last = False
        while not last:
            key, value, last = reader.take()
            yield decode_datum(value, f"{path}, key {key!r}")
    finally:
        reader.close()


@dataclass(frozen=True)
class RecordPlan:
    """Keys of a batch, values where other processes cannot get them, and draws."""

    records: list[Located]
    draws: np.ndarray | None


class DatabaseSource(RecordSource):
    """Images and labels of an LMDB or LevelDB in the order of the keys.

    During the first pass decoded images are kept as long as all of them together stay below
    :data:`CACHE_BYTES`; a data base that fits is never read again.

    Args:
        spec: a Data layer.
        phase: "TRAIN" or "TEST".

    Raises:
        DataError: no such data base, or its first record cannot be used.
    """

    def __init__(self, spec: LayerSpec, phase: str) -> None:
        super().__init__(spec)
        self.transformer = DataTransformer(spec, phase)
        self._kept: list[tuple[np.ndarray, int]] | None = []
        self._kept_bytes = 0
        self._images: np.ndarray | list[np.ndarray] = []
        self._labels = np.zeros(0, np.float32)
        self._complete = False
        key, value, _last = self.reader.take()
        first, _label = self._decode(key, value)
        self.decodes = value != b"" and bool(decode(value, "Datum", self.path).encoded)
        self._first = tuple(int(d) for d in first.shape)
        count = self.reader.count()
        self.slow = count is None or count * first.nbytes > CACHE_BYTES
        self.rewind()

    def _decode(self, key: bytes, value: bytes) -> tuple[np.ndarray, int]:
        transformer = self.transformer
        return decode_datum(value, self.where(key), transformer.force_color, transformer.force_gray)

    def _read(self) -> tuple[np.ndarray, int, bool]:
        key, value, last = self.reader.take()
        return (*self._decode(key, value), last)

    def shapes(self, batch: int) -> list[Shape]:
        """Shapes by the first image of the data base: (batch, C, h, w) and (batch,)."""
        return [(batch, *self.transformer.shape(self._first)), (batch,)]

    def next(self, batch: int) -> list[np.ndarray]:
        """The next images and labels."""
        images, labels = self._cached(batch) if self._complete else self._fresh(batch)
        return [self.transformer.transform(images, self.rng, self.rank, self.ranks), labels]

    @property
    def plannable(self) -> bool:
        """Not when all images are in memory."""
        return not self._complete

    def plan(self, batch: int) -> RecordPlan:
        """The next records; nothing of them is kept."""
        records = self.locate(batch)
        return RecordPlan(records, self.transformer.draw(batch, self.rng, self.rank, self.ranks))

    def make(self, plan: RecordPlan) -> list[np.ndarray]:
        """Images and labels."""
        images: list[np.ndarray] = []
        labels = np.empty(len(plan.records), np.float32)
        for record in plan.records:
            image, labels[len(images)] = self._decode(record[0], self.value(record))
            images.append(image)
        return [self.transformer.apply(images, plan.draws), labels]

    def __getstate__(self) -> dict[str, Any]:
        """Without the open data base and what was kept of it."""
        return {
            **super().__getstate__(), "_kept": None, "_images": [], "_complete": False,
            "_labels": np.zeros(0, np.float32),
        }  # fmt: skip

    def _cached(self, batch: int) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
        at = (self._at + self.rank + self.ranks * np.arange(batch)) % len(self._labels)
        self._at = (self._at + self.ranks * batch) % len(self._labels)
        if isinstance(self._images, np.ndarray):
            return self._images[at], self._labels[at]
        return [self._images[i] for i in at], self._labels[at]

    def _fresh(self, batch: int) -> tuple[list[np.ndarray], np.ndarray]:
        images: list[np.ndarray] = []
        labels = np.empty(batch, np.float32)
        for item in range(batch * self.ranks):
            mine = item % self.ranks == self.rank
            if not mine and (self._complete or self._kept is None):
                self.advance(self.reader.skip())
                continue
            image, label, last = self._read()
            if mine:
                labels[len(images)] = label
                images.append(image)
            if not self._complete:
                self._keep(image, label, last)
            self.advance(last)
        return images, labels

    def _keep(self, image: np.ndarray, label: int, last: bool) -> None:
        if self._kept is not None:
            self._kept.append((image, label))
            self._kept_bytes += image.nbytes
            if self._kept_bytes > CACHE_BYTES:
                self._kept = None
        if last and self._kept is not None:
            images = [image for image, _label in self._kept]
            equal = len({(image.shape, image.dtype) for image in images}) == 1
            self._images = np.stack(images) if equal else images
            self._labels = np.array([label for _image, label in self._kept], np.float32)
            self._complete, self._kept = True, None
            self.slow = False

    def rewind(self) -> None:
        """Go to the first record."""
        self._at = 0
        if not self._complete:
            self.reader.rewind()
            if self._kept is not None:
                self._kept, self._kept_bytes = [], 0

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to that record; a data base that may fit in memory is read up to there."""
        PlannedSource.set_state(self, state)
        self.rewind()
        at = int(state["at"])
        if self._complete:
            self._at = at % len(self._labels)
        elif self.slow:
            self._kept = None
            for _ in range(at):
                self.advance(self.reader.skip())
        else:
            while self._at < at and not self._complete:
                image, label, last = self._read()
                self._keep(image, label, last)
                self.advance(last)
