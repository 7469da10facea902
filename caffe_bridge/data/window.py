"""R-CNN's window files: the source behind the WindowData layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge.data.datum import read_picture
from caffe_bridge.data.source import PlannedSource, read_list
from caffe_bridge.data.transformer import DataTransformer
from caffe_bridge.graph import LayerSpec, Shape

_CHANNELS = 3


def _round(value: float) -> int:
    """C's round: halves away from zero."""
    return math.floor(value + 0.5) if value >= 0 else math.ceil(value - 0.5)


@dataclass(frozen=True)
class Window:
    """A box of a picture, corners included, and its class (0 = background)."""

    picture: int
    label: int
    box: tuple[int, int, int, int]


class WindowSource(PlannedSource):
    """Windows of pictures, drawn at random, background first, warped to a square.

    The window file repeats: ``# index``, the picture's name, its channels, height and width, the
    number of windows, then for each window ``class overlap x1 y1 x2 y2``. A window whose overlap
    is at least fg_threshold is an object, one below bg_threshold background; others are left out.

    Args:
        spec: a WindowData layer.
        phase: "TRAIN" or "TEST".

    Raises:
        DataError: bad window file or parameters.
    """

    slow = True
    decodes = True

    def __init__(self, spec: LayerSpec, phase: str) -> None:
        super().__init__(spec)
        self.p = spec.record.window_data_param
        self.transformer = DataTransformer(spec, phase)
        self.crop = self.transformer.crop
        if self.crop < 1:
            self.fail("gives no crop_size; state the size of the windows in transform_param.")
        mean = self.transformer.mean
        if mean is not None and (
            mean.shape[0] not in (1, _CHANNELS)
            or (self.transformer.has_mean_image and min(mean.shape[1:]) < self.crop)
        ):
            self.fail(
                f"the mean of shape {mean.shape} does not fit windows of {_CHANNELS} channels and "
                f"crop_size {self.crop}."
            )
        if 2 * int(self.p.context_pad) >= self.crop:
            self.fail(f"context_pad {self.p.context_pad} leaves nothing of crop_size {self.crop}.")
        if self.p.crop_mode not in ("warp", "square"):
            self.fail(f"crop_mode is '{self.p.crop_mode}'; use warp or square.")
        self.pictures: list[str] = []
        self.objects: list[Window] = []
        self.background: list[Window] = []
        self._kept: dict[int, np.ndarray] = {}
        self.list_file = str(self.p.source)
        words = " ".join(read_list(spec, "window_data_param.source", self.list_file)).split()
        self._parse(words)

    def _parse(self, words: list[str]) -> None:
        at = 0
        while at < len(words):
            try:
                mark, index, name = words[at], int(words[at + 1]), words[at + 2]
                channels, count = int(words[at + 3]), int(words[at + 6])
                numbers = [float(w) for w in words[at + 7 : at + 7 + 6 * count]]
            except (IndexError, ValueError):
                self._bad(at)
            if mark != "#" or index != len(self.pictures) or len(numbers) != 6 * count:
                self._bad(at)
            if channels != _CHANNELS:
                self.fail(f"'{name}' of {self.list_file} has {channels} channels; only 3 are read.")
            self.pictures.append(name)
            for first in range(0, len(numbers), 6):
                self._enter(index, numbers[first : first + 6])
            at += 7 + 6 * count

    def _bad(self, at: int) -> None:
        self.fail(
            f"{self.list_file} does not hold picture {len(self.pictures)} as '# index', name, "
            f"channels, height, width, number of windows and six numbers for each (at word {at})."
        )

    def _enter(self, index: int, numbers: list[float]) -> None:
        label, overlap = int(numbers[0]), numbers[1]
        x1, y1, x2, y2 = (int(v) for v in numbers[2:])
        if overlap >= self.p.fg_threshold:
            if label < 1:
                self.fail(
                    f"{self.list_file}: a window of picture {index} overlaps an object by "
                    f"{overlap:g} but has class {label}; classes of objects begin with 1."
                )
            self.objects.append(Window(index, label, (x1, y1, x2, y2)))
        elif overlap < self.p.bg_threshold:
            self.background.append(Window(index, 0, (x1, y1, x2, y2)))

    def shapes(self, batch: int) -> list[Shape]:
        """(batch, 3, crop_size, crop_size) and (batch,)."""
        return [(batch, _CHANNELS, self.crop, self.crop), (batch,)]

    def plan(self, batch: int) -> list[tuple[Window, bool]]:
        """Background windows, then ``int(batch * fg_fraction)`` objects; each flipped or not."""
        total = batch * self.ranks
        objects = int(np.float32(total) * np.float32(self.p.fg_fraction))
        drawn = []
        for item in range(total):
            windows = self.background if item < total - objects else self.objects
            if not windows:
                kind = "background" if item < total - objects else "object"
                self.fail(
                    f"{self.list_file} has no {kind} windows by fg_threshold "
                    f"{self.p.fg_threshold:g} and bg_threshold {self.p.bg_threshold:g}."
                )
            window = windows[int(self.rng.integers(len(windows)))]
            drawn.append((window, self.transformer.mirror and bool(self.rng.integers(2))))
        return drawn[self.rank :: self.ranks]

    def make(self, plan: list[tuple[Window, bool]]) -> list[np.ndarray]:
        """Warped windows and their classes."""
        data = np.zeros((len(plan), _CHANNELS, self.crop, self.crop), np.float32)
        for out, (window, flip) in zip(data, plan, strict=True):
            self._put(out, window, flip)
        return [data, np.array([window.label for window, _flip in plan], np.float32)]

    def __getstate__(self) -> dict[str, Any]:
        """Without the windows, which only plans need, and without pictures."""
        return {**self.__dict__, "objects": [], "background": [], "_kept": {}}

    def rewind(self) -> None:
        """Nothing: windows are drawn, and reset draws the same ones again."""

    def _picture(self, index: int) -> np.ndarray:
        import cv2  # here: loading it takes longer than everything else in the package

        if index in self._kept:
            return self._kept[index]
        path = str(self.p.root_folder) + self.pictures[index]
        image = read_picture(path, cv2.IMREAD_COLOR) if Path(path).is_file() else None
        if image is None:
            self.fail(
                f"'{path}' of {self.list_file} is missing or no picture; correct the file or "
                f"root_folder (relative paths count from {Path.cwd()})."
            )
        if self.p.cache_images:
            self._kept[index] = image
        return image

    def _put(self, out: np.ndarray, window: Window, flip: bool) -> None:
        """Cut the window out, warp it, subtract the mean and write it into ``out``."""
        import cv2

        image = self._picture(window.picture)
        (x1, y1, x2, y2), size, left, top = self._place(window, image, flip)
        if x1 < 0 or y1 < 0 or x2 >= image.shape[1] or y2 >= image.shape[0] or x2 < x1 or y2 < y1:
            self.fail(
                f"window {window.box} of '{self.pictures[window.picture]}' lies outside the "
                f"picture of {image.shape[1]} x {image.shape[0]}."
            )
        if min(size) < 1:
            return
        warped = cv2.resize(image[y1 : y2 + 1, x1 : x2 + 1], size, interpolation=cv2.INTER_LINEAR)
        values = (warped[:, ::-1] if flip else warped).transpose(2, 0, 1).astype(np.float32)
        rows, columns = slice(top, top + size[1]), slice(left, left + size[0])
        mean = self.transformer.mean
        if mean is not None and self.transformer.has_mean_image:
            before = (mean.shape[2] - self.crop) // 2
            mean = mean[:, before : before + self.crop, before : before + self.crop]
            mean = mean[:, rows, columns]
        if mean is not None:
            values -= mean
        out[:, rows, columns] = values * np.float32(self.p.scale)

    def _place(
        self, window: Window, image: np.ndarray, flip: bool
    ) -> tuple[tuple[int, int, int, int], tuple[int, int], int, int]:
        """What to cut, the size (width, height) to warp it to, and where to put it (x, y)."""
        crop, pad = self.crop, int(self.p.context_pad)
        square = self.p.crop_mode == "square"
        x1, y1, x2, y2 = window.box
        if not pad and not square:
            return window.box, (crop, crop), 0, 0
        scale = crop / (crop - 2 * pad)
        half_h, half_w = (y2 - y1 + 1) / 2, (x2 - x1 + 1) / 2
        centre_x, centre_y = x1 + half_w, y1 + half_h
        if square:
            half_h = half_w = max(half_h, half_w)
        x1, x2 = (_round(centre_x + side * half_w * scale) for side in (-1, 1))
        y1, y2 = (_round(centre_y + side * half_h * scale) for side in (-1, 1))
        scale_x, scale_y = crop / (x2 - x1 + 1), crop / (y2 - y1 + 1)
        left, top = max(0, -x1), max(0, -y1)
        right, bottom = max(0, x2 - image.shape[1] + 1), max(0, y2 - image.shape[0] + 1)
        x1, y1, x2, y2 = x1 + left, y1 + top, x2 - right, y2 - bottom
        width, height = _round((x2 - x1 + 1) * scale_x), _round((y2 - y1 + 1) * scale_y)
        at_x, at_y = _round((right if flip else left) * scale_x), _round(top * scale_y)
        width, height = min(width, crop - at_x), min(height, crop - at_y)
        return (x1, y1, x2, y2), (width, height), at_x, at_y
