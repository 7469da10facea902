import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.net import Net
from tests.helpers import check_layer, layer_spec_of


def darknet(x: np.ndarray, s: int, reverse: bool) -> np.ndarray:
    """Index by index, with the flat positions of darknet's loops."""
    n, c, h, w = x.shape
    source, target = x.reshape(-1), np.zeros(x.size)
    few = c // (s * s)
    for b, k, j, i in np.ndindex(n, c, h, w):
        here = i + w * (j + h * (k + c * b))
        offset = k // few
        column, row = i * s + offset % s, j * s + offset // s
        there = column + w * s * (row + h * s * (k % few + few * b))
        if reverse:
            target[there] = source[here]
        else:
            target[here] = source[there]
    shape = (n, few, h * s, w * s) if reverse else (n, c * s * s, h // s, w // s)
    return target.reshape(shape)


@pytest.mark.parametrize(
    ("shape", "stride", "top"),
    [((2, 4, 4, 6), 2, (2, 16, 2, 3)), ((1, 9, 3, 3), 3, (1, 81, 1, 1)), ((2, 3, 2, 2), 1, None)],
)
def test_reorg(shape: tuple[int, ...], stride: int, top: tuple[int, ...] | None) -> None:
    check_layer(
        f'type: "Reorg" reorg_param {{ stride: {stride} }}',
        [shape],
        [top or shape],
        lambda x: darknet(x, stride, False),
    )


@pytest.mark.parametrize(
    ("shape", "stride", "top"),
    [((2, 8, 2, 3), 2, (2, 2, 4, 6)), ((1, 9, 1, 2), 3, (1, 1, 3, 6))],
)
def test_reverse(shape: tuple[int, ...], stride: int, top: tuple[int, ...]) -> None:
    check_layer(
        f'type: "Reorg" reorg_param {{ stride: {stride} reverse: true }}',
        [shape],
        [top],
        lambda x: darknet(x, stride, True),
    )


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("", (1, 4, 2, 2), "stride is 0"),
        ("stride: 2", (1, 4, 3, 2), "rows and columns by 2"),
        ("stride: 2", (1, 2, 2, 2), "channels that divide by 4"),
        ("stride: 2 reverse: true", (1, 6, 2, 2), "channels that divide by 4"),
        ("stride: 2", (4, 4), "must have 4 axes"),
    ],
)
def test_errors(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(f'type: "Reorg" reorg_param {{ {text} }}', [shape], 1, "TEST"))
