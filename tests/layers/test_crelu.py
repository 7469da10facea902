import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.net import Net
from tests.helpers import check_layer, layer_spec_of

SHAPE = (2, 3, 4, 2)


@pytest.mark.parametrize("slope", [0, 0.25])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_crelu(slope: float, axis: int) -> None:
    top = list(SHAPE)
    top[axis] *= 2

    def reference(x: np.ndarray) -> np.ndarray:
        both = np.concatenate([x, -x], axis)
        return np.maximum(both, 0) + slope * np.minimum(both, 0)

    check_layer(
        f'type: "CReLU" crelu_param {{ negative_slope: {slope} concat_axis: {axis} }}',
        [SHAPE],
        [top],
        reference,
    )


def test_gradient_at_zero() -> None:
    layer = 'type: "CReLU" crelu_param { negative_slope: 0.5 }'
    x = torch.zeros(1, 1, requires_grad=True)
    y = Net(layer_spec_of(layer, [(1, 1)], 1, "TEST")).layer("l")(x)
    y[0, 0].backward()
    assert x.grad is not None
    assert x.grad.item() == 0.5


def test_errors() -> None:
    with pytest.raises(ShapeError, match="concat_axis 1 is outside"):
        Net(layer_spec_of('type: "CReLU"', [(3,)], 1, "TEST"))
