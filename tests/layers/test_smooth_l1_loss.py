import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.net import Net
from tests.helpers import check_layer, layer_spec_of


def loss(sigma: float, a: np.ndarray, b: np.ndarray, *weights: np.ndarray) -> np.ndarray:
    total = 0.0
    for index in np.ndindex(a.shape):
        d = a[index] - b.reshape(a.shape)[index]
        d *= weights[0].reshape(a.shape)[index] if weights else 1
        near = abs(d) < 1 / sigma**2
        value = 0.5 * (sigma * d) ** 2 if near else abs(d) - 0.5 / sigma**2
        total += value * (weights[1].reshape(a.shape)[index] if len(weights) > 1 else 1)
    return np.array(total / len(a))


@pytest.mark.parametrize("sigma", [1, 3, 0.5])
@pytest.mark.parametrize("weights", [0, 1, 2])
def test_loss(sigma: float, weights: int) -> None:
    shape = (3, 4, 2)
    check_layer(
        f'type: "SmoothL1Loss" smooth_l1_loss_param {{ sigma: {sigma} }}',
        [shape] * (2 + weights),
        [()],
        lambda *values: loss(sigma, *values),
    )


def test_other_shapes_of_equal_rows() -> None:
    check_layer('type: "SmoothL1Loss"', [(3, 4), (3, 4, 1, 1)], [()], lambda a, b: loss(1, a, b))
    check_layer('type: "SmoothL1Loss"', [(3,), (3,)], [()], lambda a, b: loss(1, a, b))


def test_gradient_at_the_knee_is_one() -> None:
    layer = Net(layer_spec_of('type: "SmoothL1Loss"', [(1, 1)] * 2, 1, "TRAIN")).layer("l")
    a = torch.tensor([[1.0]], requires_grad=True)
    layer(a, torch.zeros(1, 1)).backward()
    assert a.grad is not None
    assert a.grad.item() == 1


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("sigma: 0", [(2, 3)] * 2, "sigma is 0"),
        ("", [(2, 3), (2, 4)], "differ"),
        ("", [(2, 3), (2, 3), (3, 2)], "differ"),
    ],
)
def test_errors(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    layer = f'type: "SmoothL1Loss" smooth_l1_loss_param {{ {text} }}'
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(layer, shapes, 1, "TEST"))
