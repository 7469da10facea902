import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.net import Net
from tests.helpers import check_layer, layer_spec_of


def correlate(
    a: np.ndarray, b: np.ndarray, kernel: int, reach: int, pad: int, s1: int, s2: int,
    subtract: bool,
) -> np.ndarray:  # fmt: skip
    a, b = (np.pad(v, ((0, 0), (0, 0), (pad, pad), (pad, pad))) for v in (a, b))
    border = reach + (kernel - 1) // 2
    h, w = (int(np.ceil((n - 2 * border) / s1)) for n in a.shape[2:])
    radius = reach // s2
    side = 2 * radius + 1
    y = np.zeros((len(a), side * side, h, w))
    for k, j, i in np.ndindex(side * side, h, w):
        row, column = j * s1 + reach, i * s1 + reach
        dy, dx = (k // side - radius) * s2, (k % side - radius) * s2
        one = a[:, :, row : row + kernel, column : column + kernel]
        two = b[:, :, row + dy : row + dy + kernel, column + dx : column + dx + kernel]
        found = np.abs(one - two) if subtract else one * two
        y[:, k, j, i] = found.sum((1, 2, 3)) / (kernel * kernel * a.shape[1])
    return y


@pytest.mark.parametrize(
    ("kernel", "reach", "pad", "s1", "s2", "top"),
    [
        (1, 1, 1, 1, 1, (1, 9, 4, 5)),
        (3, 2, 2, 1, 2, (1, 9, 2, 3)),
        (1, 2, 2, 2, 1, (1, 25, 2, 3)),
        (3, 1, 1, 2, 1, (1, 9, 1, 2)),
        (1, 0, 0, 1, 1, (1, 1, 4, 5)),
    ],
)
@pytest.mark.parametrize("kind", ["MULTIPLY", "SUBTRACT"])
def test_correlation(
    kernel: int, reach: int, pad: int, s1: int, s2: int, top: tuple[int, ...], kind: str
) -> None:
    shape = (1, 2, 4, 5)
    check_layer(
        f'type: "Correlation" correlation_param {{ kernel_size: {kernel} max_displacement: {reach} '
        f"pad: {pad} stride_1: {s1} stride_2: {s2} correlation_type: {kind} }}",
        [shape, shape],
        [top],
        lambda a, b: correlate(a, b, kernel, reach, pad, s1, s2, kind == "SUBTRACT"),
        macs=int(np.prod(top)) * kernel**2 * 2,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_displacement: 1", "kernel_size is 0"),
        ("kernel_size: 2 max_displacement: 1", "give an odd number"),
        ("kernel_size: 1", "no max_displacement"),
        ("kernel_size: 1 max_displacement: 1 stride_2: 0", "must be positive"),
        ("kernel_size: 1 max_displacement: 1 do_abs: true", "do_abs and single_direction"),
        ("kernel_size: 1 max_displacement: 2", "do not fit into"),
    ],
)
def test_errors(text: str, message: str) -> None:
    layer = f'type: "Correlation" correlation_param {{ {text} }}'
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(layer, [(1, 2, 4, 4)] * 2, 1, "TEST"))


def test_bottoms_must_be_alike() -> None:
    layer = 'type: "Correlation" correlation_param { kernel_size: 1 max_displacement: 0 }'
    with pytest.raises(ShapeError, match="two bottoms of one shape"):
        Net(layer_spec_of(layer, [(1, 2, 4, 4), (1, 2, 4, 5)], 1, "TEST"))
