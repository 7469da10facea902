import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text


def correlate(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: tuple[int, int],
    pad: tuple[int, int], dilation: tuple[int, int], group: int,
) -> np.ndarray:  # fmt: skip
    """Direct sum over the window, as the definition says."""
    n, c, h, wd = x.shape
    o, _, kh, kw = w.shape
    x = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    oh = (h + 2 * pad[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (wd + 2 * pad[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, o, oh, ow))
    for i in range(o):
        g = i // (o // group)
        part = x[:, g * (c // group) : (g + 1) * (c // group)]
        for r in range(oh):
            for s in range(ow):
                rows = r * stride[0] + dilation[0] * np.arange(kh)
                cols = s * stride[1] + dilation[1] * np.arange(kw)
                y[:, i, r, s] = (part[:, :, rows][..., cols] * w[i]).sum((1, 2, 3))
    return y if b is None else y + b[:, None, None]


@pytest.mark.parametrize(
    ("text", "stride", "pad", "dilation", "group"),
    [
        ("kernel_size: 3", (1, 1), (0, 0), (1, 1), 1),
        ("kernel_size: 3 stride: 2 pad: 1", (2, 2), (1, 1), (1, 1), 1),
        ("kernel_size: 3 pad: 2 dilation: 2 group: 2", (1, 1), (2, 2), (2, 2), 2),
        ("kernel_h: 3 kernel_w: 1 stride_h: 2 stride_w: 1 pad_h: 1", (2, 1), (1, 0), (1, 1), 1),
        ("kernel_size: 2 kernel_size: 3 stride: 1 stride: 2 pad: 0 pad: 1",
         (1, 2), (0, 1), (1, 1), 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_two_spatial_axes(
    text: str, stride: tuple[int, int], pad: tuple[int, int], dilation: tuple[int, int],
    group: int, bias: bool,
) -> None:  # fmt: skip
    if group == 4:
        text += " group: 4"

    def reference(x: np.ndarray, w: np.ndarray, *b: np.ndarray) -> np.ndarray:
        return correlate(x, w, b[0] if b else None, stride, pad, dilation, group)

    x = np.random.default_rng(0).standard_normal((2, 4, 7, 6))
    kernel = {"h": (3, 1), "2": (2, 3)}.get("h" if "kernel_h" in text else text[13], (3, 3))
    top = reference(x, np.zeros((8, 4 // group, *kernel))).shape
    check_layer(
        f'type: "Convolution" convolution_param {{ num_output: 8 {text} '
        f"bias_term: {str(bias).lower()} }}",
        [x],
        [top],
        reference,
        macs=int(np.prod(top)) * (4 // group) * kernel[0] * kernel[1],
    )


def test_one_and_three_spatial_axes() -> None:
    check_layer('type: "Convolution" convolution_param { num_output: 3 kernel_size: 3 stride: 2 }',
                [(2, 2, 9)], [(2, 3, 4)])  # fmt: skip
    check_layer('type: "Convolution" convolution_param { num_output: 2 kernel_size: 2 pad: 1 }',
                [(1, 2, 3, 4, 3)], [(1, 2, 4, 5, 4)])  # fmt: skip


def test_several_bottoms_share_the_filters() -> None:
    net = check_layer('type: "Convolution" convolution_param { num_output: 3 kernel_size: 1 }',
                      [(2, 2, 3, 3), (2, 2, 3, 3)], [(2, 3, 3, 3), (2, 3, 3, 3)])  # fmt: skip
    assert len(net.learnable) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernel_size: 3", "num_output is missing"),
        ("num_output: 3 kernel_size: 3 group: 2", "num_output 3 is not divisible by group 2"),
        ("num_output: 4 kernel_size: 3 group: 4", "6 channels, not divisible by group 4"),
        ("num_output: 4", r"kernel size is \(0, 0\)"),
        ("num_output: 4 kernel_size: 9", r"kernel \(9, 9\) with pad \(0, 0\) does not fit"),
        ("num_output: 4 kernel_size: 3 kernel_h: 3", "gives both kernel_size and kernel_h"),
        ("num_output: 4 kernel_size: [1, 2, 3]", "gives 3 kernel_size values for 2"),
    ],
)
def test_bad_parameters_are_named(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(
            f'type: "Convolution" convolution_param {{ {text} }}', [(1, 6, 5, 5)], [(1, 4, 3, 3)]
        )


def test_channels_on_the_first_axis() -> None:
    rng = np.random.default_rng(3)
    w, x = rng.normal(size=(2, 3, 3, 3)), rng.normal(size=(3, 5, 6)).astype(np.float32)
    text = 'type: "Convolution" convolution_param { num_output: 2 kernel_size: 3 axis: 0 }'
    net = Net(parse_net(net_text(text, [x.shape], 1)))
    net.layer("l").blobs[0].data.copy_(torch.from_numpy(w))
    (top,) = net({"in0": torch.from_numpy(x)}).values()
    expected = correlate(x[None], w, None, (1, 1), (0, 0), (1, 1), 1)[0]
    np.testing.assert_allclose(top.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
