"""``caffe.Detector``: a net that scores windows of pictures (R-CNN)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from caffe_bridge.errors import BackendError, DataError, ShapeError
from caffe_bridge.pycaffe.classifier import picture_transformer
from caffe_bridge.pycaffe.net import TEST, Net
from caffe_bridge.pycaffe.resample import load_image, resize_image

Window = Sequence[float] | np.ndarray


class Detector(Net):
    """Scores windows (ymin, xmin, ymax, xmax) of pictures, each warped to the net's input.

    Args:
        model_file: deploy prototxt.
        pretrained_file: its weights.
        mean, input_scale, raw_scale, channel_swap: see ``caffe.io.Transformer``.
        context_pad: pixels of the warped window that show what lies around it; what would lie
            outside the picture is filled with the mean.

    Raises:
        BridgeError: the files do not fit.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = picture_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def configure_crop(self, context_pad: int | None) -> None:
        """Set the context and the picture that fills what lies outside (the mean, or zeros)."""
        name = self.inputs[0]
        self.crop_dims = np.array(self.blobs[name].shape[2:])
        self.context_pad = int(context_pad or 0)
        if not 0 <= 2 * self.context_pad < self.crop_dims[0]:
            raise ShapeError(
                f"context_pad is {self.context_pad}; give a number of pixels from 0 up to less "
                f"than half of the input's {self.crop_dims[0]}."
            )
        zeros = np.zeros(self.blobs[name].shape[1:], np.float32)
        self.crop_mean = self.transformer.deprocess(name, zeros).reshape(
            *self.crop_dims, self.blobs[name].shape[1]
        )

    def crop(self, im: np.ndarray, window: Window) -> np.ndarray:
        """One window with its context, warped to the input's size: (h, w, K)."""
        box = np.array(window, np.float64)
        if not self.context_pad:
            low, high = box[:2].astype(int), box[2:].astype(int)
            return resize_image(im[low[0] : high[0], low[1] : high[1]], self.crop_dims)
        side = self.crop_dims[0]
        scale = side / (side - 2.0 * self.context_pad)
        half = np.array([box[2] - box[0], box[3] - box[1]]) / 2 * scale
        centre = (box[:2] + box[2:]) / 2
        low, high = np.round(centre - half), np.round(centre + half)
        ratio = self.crop_dims / (high - low)
        inside_low = np.maximum(low, 0)
        inside_high = np.minimum(high, im.shape[:2])
        before = np.round((inside_low - low) * ratio).astype(int)
        size = np.round((inside_high - inside_low) * ratio).astype(int)
        size = np.maximum(np.minimum(size, self.crop_dims - before), 1)
        (top, left), (bottom, right) = inside_low.astype(int), inside_high.astype(int)
        made = np.array(self.crop_mean, np.float32)
        patch = resize_image(im[top:bottom, left:right], size)
        made[before[0] : before[0] + size[0], before[1] : before[1] + size[1]] = patch
        return made

    def detect_windows(
        self, images_windows: Iterable[tuple[str, Iterable[Window]]]
    ) -> list[dict[str, Any]]:
        """Scores of all windows.

        Args:
            images_windows: file names with their windows.

        Returns:
            For each window a dict with ``window``, ``prediction`` (classes,) and ``filename``.

        Raises:
            BridgeError: a picture cannot be read, or a window has no area inside it.
        """
        inputs, found = [], []
        name = self.inputs[0]
        for filename, windows in images_windows:
            image = load_image(filename)
            for window in windows:
                box = np.asarray(window)
                low, high = np.maximum(box[:2], 0), np.minimum(box[2:], image.shape[:2])
                if np.any(np.floor(high) - np.floor(low) < 1):
                    raise DataError(f"{filename}: window {tuple(box)} has no area in the picture.")
                inputs.append(self.transformer.preprocess(name, self.crop(image, box)))
                found.append({"window": box, "filename": filename})
        if not inputs:
            return []
        out = self.forward_all(None, **{name: np.stack(inputs)})[self.outputs[0]]
        scores = out.reshape(len(inputs), -1)
        return [
            {"window": item["window"], "prediction": row, "filename": item["filename"]}
            for item, row in zip(found, scores, strict=True)
        ]

    def detect_selective_search(self, image_fnames: Sequence[str]) -> NoReturn:
        """Not available: it ran MATLAB code of another project.

        Raises:
            BackendError: always; says what to do instead.
        """
        raise BackendError(
            f"detect_selective_search needs MATLAB and selective_search_ijcv ({len(image_fnames)} "
            "pictures given); make the windows elsewhere and call detect_windows."
        )
