import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text

Pair = tuple[int, int]


def spread(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Pair, pad: Pair, dilation: Pair,
    group: int,
) -> np.ndarray:  # fmt: skip
    """Add every input value times the filter into the output, as the definition says."""
    n, c, h, wd = x.shape
    _, per_group, kh, kw = w.shape
    full_h = stride[0] * (h - 1) + dilation[0] * (kh - 1) + 1
    full_w = stride[1] * (wd - 1) + dilation[1] * (kw - 1) + 1
    y = np.zeros((n, per_group * group, full_h, full_w))
    for i in range(c):
        first = i // (c // group) * per_group
        for r in range(h):
            for s in range(wd):
                rows = slice(r * stride[0], r * stride[0] + dilation[0] * (kh - 1) + 1, dilation[0])
                cols = slice(s * stride[1], s * stride[1] + dilation[1] * (kw - 1) + 1, dilation[1])
                part = x[:, i, r, s][:, None, None, None] * w[i]
                y[:, first : first + per_group, rows, cols] += part
    y = y[:, :, pad[0] : full_h - pad[0], pad[1] : full_w - pad[1]]
    return y if b is None else y + b[:, None, None]


@pytest.mark.parametrize(
    ("text", "kernel", "stride", "pad", "dilation", "group"),
    [
        ("kernel_size: 3", (3, 3), (1, 1), (0, 0), (1, 1), 1),
        ("kernel_size: 4 stride: 2 pad: 1 group: 2", (4, 4), (2, 2), (1, 1), (1, 1), 2),
        ("kernel_size: 2 stride: 3 dilation: 2", (2, 2), (3, 3), (0, 0), (2, 2), 1),
        ("kernel_h: 3 kernel_w: 1 stride_h: 1 stride_w: 2 pad_h: 1 pad_w: 0 group: 4",
         (3, 1), (1, 2), (1, 0), (1, 1), 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_two_spatial_axes(
    text: str, kernel: Pair, stride: Pair, pad: Pair, dilation: Pair, group: int, bias: bool
) -> None:
    def reference(x: np.ndarray, w: np.ndarray, *b: np.ndarray) -> np.ndarray:
        return spread(x, w, b[0] if b else None, stride, pad, dilation, group)

    x = np.random.default_rng(0).standard_normal((2, 4, 3, 2))
    shape = (4, 8 // group, *kernel)
    net = check_layer(
        f'type: "Deconvolution" convolution_param {{ num_output: 8 {text} '
        f"bias_term: {str(bias).lower()} }}",
        [x],
        [reference(x, np.zeros(shape)).shape],
        reference,
        macs=x.size * (8 // group) * kernel[0] * kernel[1],
    )
    assert tuple(net.layer("l").blobs[0].shape) == shape


def test_one_and_three_spatial_axes() -> None:
    line, volume = "num_output: 3 kernel_size: 3 stride: 2", "num_output: 1 kernel_size: 2 pad: 1"
    text = 'type: "Deconvolution" convolution_param {{ {} }}'
    check_layer(text.format(line), [(2, 2, 4)], [(2, 3, 9)])
    check_layer(text.format(volume), [(1, 2, 3, 4, 3)], [(1, 1, 2, 3, 2)])


def test_bilinear_filler_interpolates() -> None:
    text = (
        'type: "Deconvolution" convolution_param { num_output: 2 kernel_size: 4 stride: 2 pad: 1 '
        'group: 2 bias_term: false weight_filler { type: "bilinear" } }'
    )
    net = Net(parse_net(net_text(text, [(1, 2, 3, 3)], 1)))
    line = np.array([0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(net.layer("l").blobs[0][1, 0].detach(), line[:, None] * line)
    ones = net({"in0": net.layer("l").blobs[0].detach().new_ones(1, 2, 3, 3)})["out0"]
    np.testing.assert_allclose(ones[0, :, 1:-1, 1:-1].detach(), np.ones((2, 4, 4)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernel_size: 3", "num_output is missing"),
        ("num_output: 4 kernel_size: 3 group: 4", "6 channels, not divisible by group 4"),
        ("num_output: 4 kernel_size: 2 pad: 4", r"kernel \(2, 2\) with pad \(4, 4\) does not fit"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(f'type: "Deconvolution" convolution_param {{ {text} }}', [(1, 6, 5, 5)],
                    [(1, 4, 3, 3)])  # fmt: skip
