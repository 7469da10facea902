"""caffe.io.resize_image against the formulae of skimage and scipy, and against both if present."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.pycaffe.io import resize_image

RNG = np.random.default_rng(0)
#: float32 results of double sums.
CLOSE = 2e-7
SIZES = [(5, 9), (23, 31), (40, 7), (1, 1), (12, 26), (24, 6)]


def column(values: list[float], size: int, order: int, channels: int = 1) -> np.ndarray:
    """A column of pixels resized; all channels must agree."""
    given = np.repeat(np.array(values)[:, None, None], channels, 2)
    made = resize_image(np.repeat(given, 2, 1), (size, 2), order)
    assert (made == made[:, :1, :1]).all()
    return made[:, 0, 0]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_constants_and_shape(channels: int, order: int) -> None:
    made = resize_image(np.full((6, 5, channels), 0.25), (3, 8), order)
    assert (made.shape, made.dtype) == ((3, 8, channels), np.float32)
    np.testing.assert_allclose(made, 0.25, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_centres_of_pictures(channels: int) -> None:
    """Target i lies at (i + 1/2) n / m - 1/2; a neighbour outside counts as the smallest value."""
    assert column([2, 4], 4, 1, channels).tolist() == [2, 2.5, 3.5, 3.5]
    assert column([4, 2], 4, 1, channels).tolist() == [3.5, 3.5, 2.5, 2]
    assert column([0, 1, 2, 3], 2, 1, channels).tolist() == [0.5, 2.5]
    assert column([0, 1, 2, 3], 2, 0, channels).tolist() == [1, 3]
    assert column([0, 1, 2, 3], 8, 0, channels).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_cubic_of_pictures() -> None:
    """Half-way weights (-1, 9, 9, -1) / 16, and nothing outside the range of the values."""
    np.testing.assert_allclose(
        column([0, 8, 0, 0, 16, 16, 0, 16], 4, 3),
        [4.5, 0, 16, 8], rtol=CLOSE,
    )  # fmt: skip


def test_many_channels_keep_corners() -> None:
    np.testing.assert_allclose(column([0, 1, 2, 3], 7, 1, 2), np.linspace(0, 3, 7), rtol=CLOSE)
    assert column([5, 6, 7], 1, 1, 2).tolist() == [5]
    assert column([0, 1, 2, 3], 7, 0, 2).tolist() == [0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("waves", [1, 2, 3])
def test_cubic_of_many_channels_is_the_b_spline(waves: int) -> None:
    """A mirrored cosine keeps its form: filtered by 6 / (4 + 2 cos w), then weighted."""
    count = 9
    w = np.pi * waves / (count - 1)
    made = column(np.cos(w * np.arange(count)).tolist(), 2 * count - 1, 3, 4)
    np.testing.assert_allclose(made[::2], np.cos(w * np.arange(count)), atol=CLOSE)
    gain = (46 * np.cos(w / 2) + 2 * np.cos(1.5 * w)) / 48 * 6 / (4 + 2 * np.cos(w))
    np.testing.assert_allclose(made[1::2], gain * np.cos(w * (np.arange(count - 1) + 0.5)),
                               atol=CLOSE)  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("channels", [2, 5])
def test_against_scipy(size: tuple[int, int], order: int, channels: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    image = RNG.random((12, 13, channels)) * 3 - 1
    want = ndimage.zoom(image, (size[0] / 12, size[1] / 13, 1), order=order)
    np.testing.assert_allclose(resize_image(image, size, order), want, atol=2 * CLOSE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_against_skimage(size: tuple[int, int], order: int, channels: int) -> None:
    """``resize`` of before 0.19 was this warp; later ones take B-splines for order 3."""
    transform = pytest.importorskip("skimage.transform")
    image = RNG.random((12, 13, channels)) * 3 - 1
    low, high = image.min(), image.max()
    if order == 3:
        y, x = 12 / size[0], 13 / size[1]
        matrix = np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])
        want = transform.warp(
            (image - low) / (high - low), transform.AffineTransform(matrix), output_shape=size,
            order=3, mode="constant",
        )  # fmt: skip
    else:
        want = transform.resize(
            (image - low) / (high - low), size, order=order, mode="constant", anti_aliasing=False
        )
    want = want * (high - low) + low
    np.testing.assert_allclose(resize_image(image, size, order), want, atol=CLOSE)


def test_refusals() -> None:
    with pytest.raises(ShapeError, match="interp_order 2; use 0, 1 or 3"):
        resize_image(np.zeros((2, 2, 3)), (7, 1), 2)
    with pytest.raises(ShapeError, match="give \\(H, W, K\\)"):
        resize_image(np.zeros((2, 2)), (3, 3))
