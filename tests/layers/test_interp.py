import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.net import Net
from tests.helpers import check_layer, layer_spec_of

SHAPE = (2, 3, 4, 5)


def interpolate(x: np.ndarray, size: tuple[int, int], corners: bool = True) -> np.ndarray:
    """Pixel by pixel, as the formula says."""
    y = np.zeros((*x.shape[:2], *size))
    for i, j in np.ndindex(size):
        total = 0.0
        for row, a in taps(i, size[0], x.shape[2], corners):
            for column, b in taps(j, size[1], x.shape[3], corners):
                total = total + a * b * x[:, :, row, column]
        y[:, :, i, j] = total
    return y


def taps(i: int, wanted: int, given: int, corners: bool) -> list[tuple[int, float]]:
    if corners:
        place = i * (given - 1) / (wanted - 1) if wanted > 1 else 0.0
    else:
        place = i * given / wanted
    low = int(np.floor(place + 1e-9))
    part = place - low
    return [(k, w) for k, w in ((low, 1 - part), (low + 1, part)) if k < given and w > 1e-9]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("height: 7 width: 9", (7, 9)),
        ("height: 2 width: 1", (2, 1)),
        ("height: 1 width: 5", (1, 5)),
        ("zoom_factor: 2", (7, 9)),
        ("shrink_factor: 2", (2, 3)),
        ("shrink_factor: 2 zoom_factor: 3", (4, 7)),
        ("shrink_factor: 2 height: 9 width: 9", (2, 3)),
        ("height: 4 width: 5", (4, 5)),
    ],
)
def test_interp(text: str, size: tuple[int, int]) -> None:
    check_layer(
        f'type: "Interp" interp_param {{ {text} }}',
        [SHAPE],
        [(2, 3, *size)],
        lambda x: interpolate(x, size),
    )


@pytest.mark.parametrize("size", [(6, 3), (3, 3)])
def test_pixels_are_cut_first(size: tuple[int, int]) -> None:
    text = f"pad_beg: -1 height: {size[0]} width: {size[1]}" + " pad_end: -1" * (size == (6, 3))
    end = -1 if size == (6, 3) else None
    shape = (2, 3, 4, 4 if end is None else 5)
    check_layer(
        f'type: "Interp" interp_param {{ {text} }}',
        [shape],
        [(2, 3, *size)],
        lambda x: interpolate(x[:, :, 1:end, 1:end], size),
    )


@pytest.mark.parametrize("text", ["interp_param { use_blob_size: true }", ""])
def test_size_of_the_second_bottom(text: str) -> None:
    net = Net(layer_spec_of(f'type: "Interp" {text}', [SHAPE, (2, 1, 6, 7)], 1, "TEST"))
    assert net.layer("l").infer([SHAPE, (2, 1, 6, 7)]) == [(2, 3, 6, 7)]
    check_layer(
        f'type: "Interp" {text}',
        [SHAPE, (2, 1, 6, 7)],
        [(2, 3, 6, 7)],
        lambda x, _: interpolate(x, (6, 7)),
        macs=4 * 2 * 3 * 42,
    )


@pytest.mark.parametrize("size", [(8, 10), (6, 7), (3, 2), (4, 5)])
def test_resize_darkens_beyond_the_last_pixel(size: tuple[int, int]) -> None:
    check_layer(
        f'type: "Resize" resize_param {{ height: {size[0]} width: {size[1]} }}',
        [SHAPE],
        [(2, 3, *size)],
        lambda x: interpolate(x, size, corners=False),
    )


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        ('"Interp"', [SHAPE], "gives no size"),
        ('"Interp" interp_param { height: 3 }', [SHAPE], "gives no size"),
        ('"Interp" interp_param { height: 0 width: 2 }', [SHAPE], "give positive numbers"),
        ('"Interp" interp_param { zoom_factor: 0 }', [SHAPE], "must be positive"),
        ('"Interp" interp_param { zoom_factor: 2 pad_beg: 1 }', [SHAPE], "they only cut"),
        ('"Interp" interp_param { zoom_factor: 2 pad_beg: -4 }', [SHAPE], "nothing is left"),
        ('"Interp" interp_param { use_blob_size: true }', [SHAPE], "needs a second bottom"),
        ('"Interp" interp_param { zoom_factor: 2 }', [(2, 3)], "4 axes"),
        ('"Resize" resize_param { height: 3 }', [SHAPE], "give both, positive"),
        (
            '"Resize" resize_param { height: 3 width: 3 interp_mode: CUBIC }',
            [SHAPE],
            "only by WARP",
        ),
        ('"Resize" resize_param { height: 3 width: 3 }', [(2, 3)], "4 axes"),
    ],
)
def test_errors(layer: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(f"type: {layer}", shapes, 1, "TEST"))
