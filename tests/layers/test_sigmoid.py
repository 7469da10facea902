from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.helpers import Array, check_layer


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


REFERENCES: dict[str, Callable[[Array], Array]] = {
    'type: "Sigmoid"': sigmoid,
    'type: "TanH"': np.tanh,
    'type: "Swish"': lambda x: x * sigmoid(x),
    'type: "Swish" swish_param { beta: 0.5 }': lambda x: x * sigmoid(0.5 * x),
    'type: "BNLL"': lambda x: np.log1p(np.exp(x)),
    'type: "Mish"': lambda x: x * np.tanh(np.log1p(np.exp(x))),
}


@pytest.mark.parametrize("layer", REFERENCES)
def test_smooth_activation(layer: str) -> None:
    check_layer(layer, [(2, 3, 4)], [(2, 3, 4)], REFERENCES[layer], in_place=True)


@pytest.mark.parametrize("layer", REFERENCES)
def test_large_values_stay_finite(layer: str) -> None:
    x = np.array([[-200.0, -60.0, 60.0, 200.0]])
    net = check_layer(layer, [x], [x.shape], gradient=False)
    leaf = torch.from_numpy(x).float().requires_grad_()
    top = net.layer("l")(leaf)
    top.sum().backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()
    assert torch.isfinite(top).all()


def test_bnll_is_the_identity_for_large_values() -> None:
    net = check_layer('type: "BNLL"', [(1, 2)], [(1, 2)])
    assert net.layer("l")(torch.tensor([[80.0, -80.0]])).tolist() == [[80.0, pytest.approx(0)]]
