"""Reading pictures and changing their size, in the conventions of ``caffe.io``.

Pictures are float32 (H, W, K) with values in [0, 1], RGB when they have colour.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from caffe_bridge.data.datum import read_picture
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
    image = read_picture(found, cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{found}: is no picture that OpenCV can decode; replace it.")
    values = image.astype(np.float32) / 255.0
    if color:
        return np.ascontiguousarray(values[..., ::-1])
    if (image == image[..., :1]).all():
        return np.ascontiguousarray(values[..., :1])
    return values @ _LUMINANCE[:, None]


#: Shares of blue, green and red in grey, as scikit-image weighs them for pycaffe.
_LUMINANCE = np.array([0.0721, 0.7154, 0.2125], np.float32)


def _taps(places: np.ndarray, order: int, spline: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and weights, (m, taps) each, that interpolate at m places.

    Order 0 takes the nearest pixel (halves go up), 1 the two neighbours, 3 four pixels: as a cubic
    B-spline of prefiltered values, else as Catmull and Rom's cubic through the values.
    """
    if order == 0:
        return np.floor(places + 0.5).astype(np.int64)[:, None], np.ones((len(places), 1))
    left = np.floor(places).astype(np.int64)
    f = places - left
    if order == 1:
        return left[:, None] + np.arange(2), np.stack([1 - f, f], 1)
    if spline:
        weights = [(1 - f) ** 3, 4 - 6 * f**2 + 3 * f**3, 1 + 3 * f + 3 * f**2 - 3 * f**3, f**3]
        return left[:, None] + np.arange(-1, 3), np.stack(weights, 1) / 6
    weights = [
        -f + 2 * f**2 - f**3, 2 - 5 * f**2 + 3 * f**3, f + 4 * f**2 - 3 * f**3, f**3 - f**2
    ]  # fmt: skip
    return left[:, None] + np.arange(-1, 3), np.stack(weights, 1) / 2


def _resample(values: np.ndarray, axis: int, pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of pixels along an axis."""
    shape = [1] * values.ndim
    shape[axis] = len(pixels)
    made = np.zeros(1)
    for tap in range(pixels.shape[1]):
        made = made + values.take(pixels[:, tap], axis) * weights[:, tap].reshape(shape)
    return made


def _centred(values: np.ndarray, size: tuple[int, int], order: int) -> np.ndarray:
    """Resample at pixel centres; what lies outside is 0."""
    for axis, wanted in enumerate(size):
        given = values.shape[axis]
        pixels, weights = _taps((np.arange(wanted) + 0.5) * given / wanted - 0.5, order, False)
        inside = (pixels >= 0) & (pixels < given)
        values = _resample(values, axis, pixels.clip(0, given - 1), weights * inside)
    return values


def _spline_filter(values: np.ndarray, axis: int) -> np.ndarray:
    """Coefficients of the cubic B-spline through the values, mirrored at both ends.

    Solves ``c[i-1] + 4 c[i] + c[i+1] = 6 v[i]`` by elimination.
    """
    rows = np.moveaxis(values, axis, 0) * 6
    last = len(rows) - 1
    if last < 1:
        return values
    above = np.empty(last)
    for i in range(last + 1):
        below = 0 if i == 0 else 2 if i == last else 1
        pivot = 4 - below * (above[i - 1] if i else 0)
        if i < last:
            above[i] = (2 if i == 0 else 1) / pivot
        rows[i] = (rows[i] - below * rows[i - 1]) / pivot
    for i in range(last - 1, -1, -1):
        rows[i] -= above[i] * rows[i + 1]
    return np.moveaxis(rows, 0, axis)


def _corner_aligned(values: np.ndarray, size: tuple[int, int], order: int) -> np.ndarray:
    """Resample with corners kept at corners; cubic splines are mirrored there."""
    for axis, wanted in enumerate(size):
        last = values.shape[axis] - 1
        pixels, weights = _taps(np.linspace(0, last if wanted > 1 else 0, wanted), order, True)
        if order == 3:
            values = _spline_filter(values, axis)
            pixels = np.abs(pixels)
            pixels = np.where(pixels > last, 2 * last - pixels, pixels)
        values = _resample(values, axis, pixels.clip(0, last), weights)
    return values


def resize_image(
    im: np.ndarray, new_dims: Sequence[int] | np.ndarray, interp_order: int = 1
) -> np.ndarray:
    """Resize an array as pycaffe does, which asks skimage or scipy by the number of channels.

    Pictures of 1 or 3 channels: interpolated at pixel centres without smoothing before; pixels
    outside count as the smallest value, and nothing leaves the range of values
    (``skimage.transform.resize`` of a picture scaled to [0, 1]). Other numbers of channels: corners
    stay at the corners (``scipy.ndimage.zoom``).

    Args:
        im: (H, W, K).
        new_dims: (height, width).
        interp_order: 0 nearest, 1 linear, 3 cubic (through Catmull and Rom's points for 1 or 3
            channels, a B-spline for others).

    Returns:
        float32 (height, width, K).

    Raises:
        ShapeError: other axes, or an order that is not supported.
    """
    size = (int(new_dims[0]), int(new_dims[1]))
    if im.ndim != 3 or min(size) < 1 or min(im.shape) < 1:
        raise ShapeError(f"resize_image: cannot bring shape {im.shape} to {size}; give (H, W, K).")
    if interp_order not in (0, 1, 3):
        raise ShapeError(f"resize_image: interp_order {interp_order}; use 0, 1 or 3.")
    if tuple(im.shape[:2]) == size:
        return im.astype(np.float32)
    values = im.astype(np.float64)
    if im.shape[2] not in (1, 3):
        return _corner_aligned(values, size, interp_order).astype(np.float32)
    low, high = values.min(), values.max()
    made = _centred(values - low, size, interp_order) + low
    return made.clip(low, high).astype(np.float32)


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
