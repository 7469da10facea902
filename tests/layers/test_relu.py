import numpy as np
import pytest

from tests.helpers import check_layer


@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 6), (3, 2, 2)])
def test_relu(slope: float, shape: tuple[int, ...]) -> None:
    check_layer(
        f'type: "ReLU" relu_param {{ negative_slope: {slope} }}',
        [shape],
        [shape],
        lambda x: np.where(x > 0, x, slope * x),
        in_place=True,
    )


def test_gradient_at_zero_is_the_slope() -> None:
    import torch

    net = check_layer('type: "ReLU" relu_param { negative_slope: 0.25 }', [(1, 2)], [(1, 2)])
    x = torch.zeros(1, 2, requires_grad=True)
    net.layer("l")(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.25, 0.25]]
