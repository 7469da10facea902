import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text

Array = np.ndarray


def text(extra: str = "", base: str = "num_output: 2 kernel_size: 2") -> str:
    return f'type: "ColinearConvolution" colinear_convolution_param {{ {base} {extra} }}'


def colinear(
    x: Array, b: Array, w: Array, q: Array, pad: int = 0, stride: int = 1, group: int = 1,
    terms: str = "bwq", symmetric: bool = False,
) -> Array:  # fmt: skip
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    sides = [(n - 2) // stride + 1 for n in x.shape[2:]]
    y = np.zeros((x.shape[0], 2, *sides))
    for n, m, i, j in np.ndindex(y.shape):
        patch = x[n, :, i * stride : i * stride + 2, j * stride : j * stride + 2]
        v = patch.reshape(-1)
        if "q" in terms:
            square = q[0, m]
            if symmetric:
                square = np.triu(square) + np.triu(square, 1).T
            y[n, m, i, j] += v @ square @ v
        if "w" in terms:
            size = patch.shape[0] // group
            first = m // (2 // group) * size
            y[n, m, i, j] += (patch[first : first + size] * w[m]).sum()
        if "b" in terms:
            y[n, m, i, j] += b[0, 0, 0, m]
    return y


def test_usual() -> None:
    check_layer(text(), [(2, 2, 3, 4)], [(2, 2, 2, 3)], colinear, macs=2 * 2 * 6 * (9 * 8 + 8))


def test_window_and_group() -> None:
    check_layer(
        text("pad: 1 stride: 2 group: 2"),
        [(2, 2, 3, 4)],
        [(2, 2, 2, 3)],
        lambda *a: colinear(*a, pad=1, stride=2, group=2),
    )


def test_symmetric() -> None:
    check_layer(
        text("symmetric: true mask: 1"),
        [(2, 1, 3, 3)],
        [(2, 2, 2, 2)],
        lambda *a: colinear(*a, symmetric=True),
    )


@pytest.mark.parametrize(
    ("off", "terms"), [("bias", "wq"), ("linear", "bq"), ("quadratic", "bw")]
)  # fmt: skip
def test_terms(off: str, terms: str) -> None:
    net = check_layer(
        text(f"{off}_term: false"),
        [(1, 1, 3, 3)],
        [(1, 2, 2, 2)],
        lambda *a: colinear(*a, terms=terms),
        gradient=False,
    )
    index = ["bias", "linear", "quadratic"].index(off)
    assert tuple(net.layer("l").blobs[index].shape) == (1, 1, 1, 2)


def test_layer_of_2014() -> None:
    net = Net(
        parse_net(
            'input: "x" input_dim: 1 input_dim: 1 input_dim: 3 input_dim: 3 '
            'layers { name: "l" type: COLINEAR_CONVOLUTION bottom: "x" top: "y" '
            "colinear_convolution_param { num_output: 3 kernel_size: 3 } }",
            "TEST",
        )
    )
    assert [tuple(blob.shape) for blob in net.layer("l").blobs] == [
        (1, 1, 1, 3), (3, 1, 3, 3), (1, 3, 9, 9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "shape", "message"),
    [
        ("num_output: 0 kernel_size: 2", (1, 1, 3, 3), "num_output 0, kernel_size 2"),
        ("num_output: 3 kernel_size: 2 group: 2", (1, 2, 3, 3), "group must divide num_output"),
        ("num_output: 2 kernel_size: 2 group: 2", (1, 3, 3, 3), "C divisible by 2"),
        ("num_output: 2 kernel_size: 4", (1, 1, 3, 3), "kernel_size 4 with pad 0 does not fit"),
    ],
)
def test_errors(base: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(parse_net(net_text(text(base=base), [shape], 1), "TEST"))
