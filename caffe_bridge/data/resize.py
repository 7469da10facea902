"""Resizing by ``resize_param`` of the SSD fork: warping, fitting, padding.

Caffe source: ApplyResize and InferNewSize in im_transforms.cpp of the SSD fork.
"""

from __future__ import annotations

import math

import numpy as np

from caffe_bridge.errors import DataError
from caffe_bridge.schema import Record

# OpenCV's numbers.
_INTERPOLATIONS = {"LINEAR": 1, "AREA": 3, "NEAREST": 0, "CUBIC": 2, "LANCZOS4": 4}
_BORDERS = {"CONSTANT": 0, "MIRRORED": 4, "REPEAT_NEAREST": 1}


def check_resize(resize: Record, who: str) -> None:
    """Refuse a resize_param without size.

    Raises:
        DataError: height or width is missing.
    """
    if min(resize.height, resize.width) < 1:
        raise DataError(f"{who}: resize_param gives no height or width; give both.")


def new_size(old: tuple[int, int], resize: Record) -> tuple[int, int]:
    """Height and width of a picture after resizing, from those before."""
    height, width = int(resize.height), int(resize.width)
    if resize.resize_mode == "FIT_SMALL_SIZE":
        aspect = np.float32(old[1]) / np.float32(old[0])
        if aspect < np.float32(width) / np.float32(height):
            height = int(np.float32(width) / aspect)
        else:
            width = int(aspect * np.float32(height))
    return height, width


def resize_image(
    image: np.ndarray, resize: Record, rng: np.random.Generator, who: str
) -> np.ndarray:
    """The resized picture.

    Args:
        image: OpenCV's (H, W) or (H, W, C).
        resize: resize_param; of several interp_mode one is drawn.
        rng: source of the draw.
        who: what to name in messages.

    Raises:
        DataError: another number of pad_value than 1 or the channels.
    """
    import cv2  # here: loading it takes longer than everything else in the package

    modes = list(resize.interp_mode) or ["LINEAR"]
    mode = modes[0] if len(modes) == 1 else modes[int(rng.integers(len(modes)))]
    old = (int(image.shape[0]), int(image.shape[1]))
    height, width = target = new_size(old, resize)
    if resize.resize_mode == "FIT_LARGE_SIZE_AND_PAD":
        aspect = np.float32(old[1]) / np.float32(old[0])
        if aspect > np.float32(width) / np.float32(height):
            height = math.floor(np.float32(width) / aspect)
        else:
            width = math.floor(aspect * np.float32(height))
    if min(height, width) < 1:
        raise DataError(
            f"{who}: a picture of {old[1]} x {old[0]} is too narrow to fit into "
            f"{target[1]} x {target[0]}; use resize_mode WARP."
        )
    image = np.ascontiguousarray(image)
    made = cv2.resize(image, (width, height), interpolation=_INTERPOLATIONS[mode])
    if (height, width) == target:
        return made
    above, left = (target[0] - height) // 2, (target[1] - width) // 2
    return cv2.copyMakeBorder(
        made, above, target[0] - height - above, left, target[1] - width - left,
        _BORDERS[resize.pad_mode], value=_padding(resize, image, who),
    )  # fmt: skip


def _padding(resize: Record, image: np.ndarray, who: str) -> list[float]:
    channels = image.shape[2] if image.ndim == 3 else 1
    values = [float(value) for value in resize.pad_value] or [0.0]
    if len(values) not in (1, channels):
        raise DataError(
            f"{who}: gives {len(values)} pad_value for pictures of {channels} channels; give 1 or "
            f"{channels}."
        )
    return values * channels if len(values) == 1 else values
