import itertools

import numpy as np
import pytest

from caffe_bridge.errors import ExportError, ShapeError
from caffe_bridge.onnx_export import export
from tests.helpers import check_layer

Pair = tuple[int, int]


def columns(x: np.ndarray, kernel: Pair, stride: Pair, pad: Pair, dilation: Pair) -> np.ndarray:
    """Strided views of the padded image, one for each pixel of the window."""
    x = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    out = [
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    ]
    parts = []
    for i, j in itertools.product(range(kernel[0]), range(kernel[1])):
        top, left = i * dilation[0], j * dilation[1]
        part = x[:, :, top :: stride[0], left :: stride[1]]
        parts.append(part[:, :, : out[0], : out[1]])
    return np.stack(parts, 2).reshape(x.shape[0], -1, *out)


@pytest.mark.parametrize(
    ("text", "geometry"),
    [
        ("kernel_size: 3 pad: 1", ((3, 3), (1, 1), (1, 1), (1, 1))),
        ("kernel_size: 2 stride: 2", ((2, 2), (2, 2), (0, 0), (1, 1))),
        ("kernel_h: 3 kernel_w: 1 pad_h: 2 pad_w: 0 stride_h: 1 stride_w: 3 dilation: 2",
         ((3, 1), (1, 3), (2, 0), (2, 2))),
    ],
)  # fmt: skip
def test_two_spatial_axes(text: str, geometry: tuple[Pair, Pair, Pair, Pair]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 5))
    check_layer(
        f'type: "Im2col" convolution_param {{ {text} }}',
        [x],
        [columns(x, *geometry).shape],
        lambda v: columns(v, *geometry),
    )


def test_one_and_three_spatial_axes() -> None:
    check_layer(
        'type: "Im2col" convolution_param { kernel_size: 2 }', [(1, 2, 4)], [(1, 4, 3)],
        lambda x: np.stack([x[..., :3], x[..., 1:]], 2).reshape(1, 4, 3),
    )  # fmt: skip
    check_layer('type: "Im2col" convolution_param { kernel_size: 2 }', [(1, 2, 3, 2, 2)],
                [(1, 16, 2, 1, 1)])  # fmt: skip


def test_axis() -> None:
    text = 'type: "Im2col" convolution_param { kernel_size: 2 axis: 2 }'
    net = check_layer(text, [(2, 3, 2, 4)], [(2, 3, 4, 3)], onnx=False)
    with pytest.raises(ExportError, match="only channels on axis 1"):
        export(net)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("kernel_size: 5", (1, 1, 4, 4), r"kernel \(5, 5\) with pad \(0, 0\) does not fit"),
        ("kernel_size: 1", (1, 1), "must have 1 to 3 spatial axes after axis 1"),
        ("", (1, 1, 4, 4), "kernel size is"),
    ],
)
def test_errors(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(f'type: "Im2col" convolution_param {{ {text} }}', [shape], [shape])
