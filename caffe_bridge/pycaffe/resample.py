"""Reading pictures and changing their size, in the conventions of ``caffe.io``.

Pictures are float32 (H, W, K) with values in [0, 1], RGB when they have colour.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from caffe_bridge.errors import DataError, ShapeError
from caffe_bridge.files import require_file


def load_image(filename: str | os.PathLike[str], color: bool = True) -> np.ndarray:
    """Read a picture.

    Args:
        filename: any picture that OpenCV decodes.
        color: three channels (grey ones repeated, alpha dropped); else one.

    Returns:
        float32 (H, W, 3) or (H, W, 1) in [0, 1], RGB.

    Raises:
        SchemaError: no such file.
        DataError: no picture.
    """
    import cv2  # here: loading it takes longer than everything else in the package

    found = require_file(filename, "picture")
    mode = cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE
    image = cv2.imread(str(found), mode)
    if image is None:
        raise DataError(f"{found}: is no picture that OpenCV can decode; replace it.")
    values = image.astype(np.float32) / 255.0
    return np.ascontiguousarray(values[..., ::-1]) if color else values[..., None]


def _linear(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left neighbour, right neighbour and weight of the right one; corners stay corners."""
    places = np.linspace(0.0, size - 1.0, wanted) if wanted > 1 else np.zeros(1)
    left = np.floor(places).astype(np.int64)
    return left, np.minimum(left + 1, size - 1), (places - left).astype(np.float32)


def _corner_aligned(image: np.ndarray, size: tuple[int, int], order: int) -> np.ndarray:
    result = image.astype(np.float32)
    for axis, wanted in enumerate(size):
        left, right, weight = _linear(image.shape[axis], wanted)
        if order == 0:
            weight = np.rint(weight)
        weight = weight.reshape((-1, *(1,) * (image.ndim - 1 - axis)))
        low, high = result.take(left, axis), result.take(right, axis)
        result = low * (1 - weight) + high * weight
    return result.astype(np.float32)


def resize_image(
    im: np.ndarray, new_dims: Sequence[int] | np.ndarray, interp_order: int = 1
) -> np.ndarray:
    """Resize an array.

    Pictures of 1 or 3 channels are resampled at pixel centres with the edges repeated; arrays of
    other channel counts with their corners kept at the corners, as pycaffe does.

    Args:
        im: (H, W, K).
        new_dims: (height, width).
        interp_order: 0 nearest, 1 linear; 3 cubic for 1 or 3 channels.

    Returns:
        float32 (height, width, K).

    Raises:
        ShapeError: other axes, or an order that is not supported.
    """
    size = (int(new_dims[0]), int(new_dims[1]))
    if im.ndim != 3 or min(size) < 1 or min(im.shape) < 1:
        raise ShapeError(f"resize_image: cannot bring shape {im.shape} to {size}; give (H, W, K).")
    if tuple(im.shape[:2]) == size:
        return im.astype(np.float32)
    natural = im.shape[2] in (1, 3)
    if interp_order not in ((0, 1, 3) if natural else (0, 1)):
        raise ShapeError(
            f"resize_image: order {interp_order} of {im.shape[2]} channels; use 0 or 1"
            f"{' or 3' if natural else ''}."
        )
    if not natural:
        return _corner_aligned(im, size, interp_order)
    import cv2  # here: see above

    mode = {0: cv2.INTER_NEAREST, 1: cv2.INTER_LINEAR, 3: cv2.INTER_CUBIC}[interp_order]
    made = cv2.resize(im.astype(np.float32), (size[1], size[0]), interpolation=mode)
    return made.reshape(*size, im.shape[2])


def oversample(
    images: Sequence[np.ndarray] | np.ndarray, crop_dims: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Ten crops of each picture: four corners and the centre, then the same mirrored.

    Args:
        images: N arrays (H, W, K) of one size.
        crop_dims: (height, width) of a crop.

    Returns:
        float32 (10 N, height, width, K).

    Raises:
        ShapeError: no pictures, or crops larger than they are.
    """
    height, width = int(crop_dims[0]), int(crop_dims[1])
    if not len(images) or height > images[0].shape[0] or width > images[0].shape[1]:
        raise ShapeError(
            f"oversample: crops of {height} x {width} need pictures of at least that size; found "
            f"{images[0].shape if len(images) else 'none'}."
        )
    rows, columns = images[0].shape[0] - height, images[0].shape[1] - width
    places = [(r, c) for r in (0, rows) for c in (0, columns)] + [(rows // 2, columns // 2)]
    made = []
    for image in images:
        crops = [image[r : r + height, c : c + width] for r, c in places]
        made += crops + [crop[:, ::-1] for crop in crops]
    return np.stack(made).astype(np.float32)
