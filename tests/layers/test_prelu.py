import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.net import Net
from tests.helpers import check_layer, layer_spec_of


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 3), (2, 3, 2)])
def test_prelu(shared: bool, shape: tuple[int, ...]) -> None:
    net = check_layer(
        f'type: "PReLU" prelu_param {{ channel_shared: {str(shared).lower()} }}',
        [shape],
        [shape],
        lambda x, a: np.where(x > 0, x, a.reshape(-1, *(1,) * (x.ndim - 2)) * x),
        in_place=True,
    )
    assert tuple(net.layer("l").blobs[0].shape) == (() if shared else (3,))


def test_default_slope_and_gradients_at_zero() -> None:
    net = Net(layer_spec_of('type: "PReLU"', [(2, 3)], 1, "TEST"))
    layer = net.layer("l")
    assert layer.blobs[0].tolist() == [0.25] * 3
    x = torch.zeros(1, 3, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.25] * 3]
    assert layer.blobs[0].grad.tolist() == [0.0] * 3


def test_filler() -> None:
    text = 'type: "PReLU" prelu_param { filler { type: "constant" value: 0.5 } }'
    assert Net(layer_spec_of(text, [(2, 3)], 1, "TEST")).layer("l").blobs[0].tolist() == [0.5] * 3


def test_channels_are_needed() -> None:
    with pytest.raises(ShapeError, match=r"bottom shape \(3,\) has no channels"):
        check_layer('type: "PReLU"', [(3,)], [(3,)])
