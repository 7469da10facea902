"""Caffe's DataTransformer: mean, scale, crop and mirror.

``y = (x - mean) * scale``, cut out and possibly flipped. The mean image has the full size and is
cut at the same place as the image. Per item Caffe draws whether to mirror, then the row and the
column of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from caffe_bridge.errors import DataError, SchemaError, UnsupportedDataError
from caffe_bridge.graph import LayerSpec, Shape
from caffe_bridge.schema import read_blob

_KNOWN = ("scale", "mirror", "crop_size", "mean_file", "mean_value", "force_color", "force_gray")
#: Fields of forks that change how, not what, is computed.
_HARMLESS = ("use_gpu_transform", "random_seed", "display")


class DataTransformer:
    """Turns images into the float32 batch that a net sees.

    Parameters (``transform_param``):
        mean_file: binaryproto of the mean image, of the images' full size; or
        mean_value: one number, or one for each channel. Not both.
        scale (1): factor after the mean.
        crop_size (0 = none): side of the square; random place in TRAIN, centre in TEST (rounded
            towards the top left).
        mirror (false): flip left-right with probability 1/2, in both phases as in Caffe.
        force_color, force_gray: channels of encoded pictures; not both.

    Caffe source:
        data_transformer.cpp
    Differences:
        the random numbers come from numpy; fields of forks are refused.

    Raises:
        DataError: contradictory parameters, or a mean file that cannot be read.
    """

    def __init__(self, spec: LayerSpec, phase: str) -> None:
        self.spec, self.train = spec, phase == "TRAIN"
        p = spec.record.transform_param
        for name in p.record_type.fields:
            if p.has(name) and name not in _KNOWN + _HARMLESS:
                raise UnsupportedDataError(
                    f"{spec.label()}: transform_param.{name} is a fork's and not supported; "
                    "remove it."
                )
        self.scale = np.float32(p.scale)
        self.crop, self.mirror = int(p.crop_size), bool(p.mirror)
        self.force_color, self.force_gray = bool(p.force_color), bool(p.force_gray)
        self.mean: np.ndarray | None = None
        self.has_mean_image = p.has("mean_file")
        if self.force_color and self.force_gray:
            self.fail("force_color and force_gray contradict each other; keep one.")
        if self.has_mean_image and p.mean_value:
            self.fail("gives both mean_file and mean_value; keep one.")
        if self.has_mean_image:
            self.mean = self._mean_image(p.mean_file)
        elif p.mean_value:
            self.mean = np.asarray(p.mean_value, np.float32).reshape(-1, 1, 1)

    def fail(self, reason: str) -> NoReturn:
        """Raise DataError with the layer's name in front."""
        raise DataError(f"{self.spec.label()}: {reason}")

    def _mean_image(self, path: str) -> np.ndarray:
        try:
            stored = read_blob(path)
        except SchemaError as error:
            raise DataError(f"{self.spec.label()}: mean_file: {error}") from error
        if not stored.count:
            self.fail(f"mean_file {path} holds no values; write it with compute_mean.")
        mean = np.array(stored.array(), np.float32)
        if mean.ndim == 4 and mean.shape[0] == 1:
            mean = mean[0]
        if mean.ndim != 3:
            self.fail(
                f"mean_file {path} has shape {mean.shape}, expected one image "
                "(channels, height, width); write it with compute_mean."
            )
        return mean

    def shape(self, image: Shape) -> Shape:
        """Shape of a transformed image, from that of the image (C, H, W)."""
        return (image[0], self.crop, self.crop) if self.crop else tuple(image)

    def _check(self, shape: Shape) -> None:
        channels, height, width = shape
        if self.crop > min(height, width):
            self.fail(
                f"crop_size {self.crop} is larger than an image of {height} x {width}; "
                "reduce it or resize the images."
            )
        if self.mean is None:
            return
        if self.has_mean_image and self.mean.shape != shape:
            self.fail(
                f"mean_file has shape {self.mean.shape}, an image has {shape}; "
                "compute the mean of this data base."
            )
        if self.mean.shape[0] not in (1, channels):
            self.fail(
                f"gives {self.mean.shape[0]} mean_value for images of {channels} channels; "
                f"give 1 or {channels}."
            )

    def draw(
        self, count: int, rng: np.random.Generator, rank: int = 0, ranks: int = 1
    ) -> np.ndarray | None:
        """The random numbers of a batch, whatever its images are.

        Args:
            count: images of the batch.
            rng: source of the draws.
            rank: the images are items rank, rank + ranks, ... of a larger batch.
            ranks: how many divide that batch; the draws are made for all of it.

        Returns:
            (count, 3) shares in [0, 1): for flipping, row and column; None when nothing is drawn,
            that is without mirror and (in TRAIN) crop.
        """
        if not self.mirror and not (self.train and self.crop):
            return None
        # Fractions, because drawing integers takes more or fewer numbers by their range.
        return rng.random((count * ranks, 3))[rank::ranks]

    def transform(
        self, images: np.ndarray | Sequence[np.ndarray], rng: np.random.Generator,
        rank: int = 0, ranks: int = 1,
    ) -> np.ndarray:  # fmt: skip
        """:meth:`draw` and :meth:`apply` in one."""
        return self.apply(images, self.draw(len(images), rng, rank, ranks))

    def apply(
        self, images: np.ndarray | Sequence[np.ndarray], draws: np.ndarray | None
    ) -> np.ndarray:
        """Transform a batch.

        Args:
            images: array (N, C, H, W), or N arrays (C, H, W) whose sizes may differ when they
                are cropped.
            draws: what :meth:`draw` gave for them.

        Returns:
            float32 array (N, C, h, w), contiguous and owned by the caller.

        Raises:
            DataError: images that do not fit the parameters or each other.
        """
        shapes = {tuple(image.shape) for image in images[:1]}
        if not isinstance(images, np.ndarray):
            shapes = {tuple(image.shape) for image in images}
        for shape in shapes:
            self._check(shape)
        results = {self.shape(shape) for shape in shapes}
        if len(results) != 1:
            remedy = "use crop_size, new_height and new_width, or batch_size 1"
            if len({shape[0] for shape in results}) > 1:
                remedy = (
                    "give them equally many channels: force_color or force_gray in transform_param "
                    "(Data), is_color in image_data_param"
                )
            self.fail(
                f"images of one batch have shapes {', '.join(map(str, sorted(results)))}; {remedy}."
            )
        sizes = np.array([image.shape[1:] for image in images], np.int64)
        flips, rows, columns = self._places(sizes, draws)
        if len(shapes) == 1:
            stacked = images if isinstance(images, np.ndarray) else np.stack(images)
            out = self._cut(stacked, rows, columns).astype(np.float32)
            self._normalise(out, rows, columns)
        else:
            out = np.empty((len(images), *results.pop()), np.float32)
            for index, image in enumerate(images):
                at = slice(index, index + 1)
                out[at] = self._cut(image[None], rows[at], columns[at])
            self._normalise(out, rows, columns)
        if flips.any():
            out[flips] = out[flips][..., ::-1]
        return np.ascontiguousarray(out)

    def _places(
        self, sizes: np.ndarray, draws: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For every item: whether to flip it, and the crop's first row and column."""
        free = sizes - self.crop + 1 if self.crop else np.ones_like(sizes)
        places = np.zeros((len(sizes), 3), np.int64)
        places[:, 1:] = (free - 1) // 2
        if draws is not None:
            highs = np.column_stack([np.full(len(sizes), 2), free])
            drawn = (draws * highs).astype(np.int64)
            if self.mirror:
                places[:, 0] = drawn[:, 0]
            if self.train and self.crop:
                places[:, 1:] = drawn[:, 1:]
        return places[:, 0].astype(bool), places[:, 1], places[:, 2]

    def _cut(self, images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The crops of images (N, C, H, W), or of one image (1, C, H, W) at N places."""
        if not self.crop:
            return images
        if (rows == rows[0]).all() and (columns == columns[0]).all():
            row, column = int(rows[0]), int(columns[0])
            return images[:, :, row : row + self.crop, column : column + self.crop]
        windows = sliding_window_view(images, (self.crop, self.crop), axis=(2, 3))
        items = np.arange(len(images)) if len(images) > 1 else np.zeros(len(rows), np.int64)
        return np.asarray(windows[items, :, rows, columns])

    def _normalise(self, out: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
        if self.mean is not None:
            mean = self.mean[None]
            out -= self._cut(mean, rows, columns) if self.has_mean_image else mean
        if self.scale != 1:
            out *= self.scale
