import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.net import Net
from tests.helpers import check_layer, layer_spec_of


def depthwise(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, pad: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    per = w.shape[0] // x.shape[1]
    k = w.shape[2]
    size = (x.shape[2] - k) // stride + 1
    y = np.zeros((x.shape[0], w.shape[0], size, size))
    for o in range(w.shape[0]):
        for i in range(size):
            for j in range(size):
                patch = x[:, o // per, i * stride : i * stride + k, j * stride : j * stride + k]
                y[:, o, i, j] = (patch * w[o, 0]).sum((1, 2)) + b[o]
    return y


@pytest.mark.parametrize("name", ["DepthwiseConvolution", "ConvolutionDepthwise", "DepthwiseConv"])
@pytest.mark.parametrize("group", ["", "group: 3"])
def test_one_filter_a_channel(name: str, group: str) -> None:
    net = check_layer(
        f'type: "{name}" convolution_param {{ num_output: 3 kernel_size: 3 pad: 1 {group} }}',
        [(2, 3, 5, 5)],
        [(2, 3, 5, 5)],
        lambda x, w, b: depthwise(x, w, b, 1, 1),
        macs=2 * 3 * 25 * 9,
    )
    assert tuple(net.layer("l").blobs[0].shape) == (3, 1, 3, 3)
    assert net.learnable[0].group == 3


def test_several_filters_a_channel_and_stride() -> None:
    check_layer(
        'type: "DepthwiseConvolution" convolution_param { num_output: 4 kernel_size: 2 stride: 2 }',
        [(1, 2, 5, 5)],
        [(1, 4, 2, 2)],
        lambda x, w, b: depthwise(x, w, b, 2, 0),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_output: 3 kernel_size: 1 group: 1", "group is 1 but bottom 'in0' has 3 channels"),
        ("num_output: 4 kernel_size: 1", "num_output 4 is no multiple of the 3 channels"),
    ],
)
def test_errors(text: str, message: str) -> None:
    layer = f'type: "DepthwiseConvolution" convolution_param {{ {text} }}'
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(layer, [(1, 3, 2, 2)], 1, "TEST"))
