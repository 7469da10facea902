import numpy as np
import pytest
import torch

from tests.helpers import check_layer


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 5)])
def test_elu(alpha: float, shape: tuple[int, ...]) -> None:
    check_layer(
        f'type: "ELU" elu_param {{ alpha: {alpha} }}',
        [shape],
        [shape],
        lambda x: np.where(x > 0, x, alpha * np.expm1(x)),
        in_place=True,
    )


def test_elu_gradient_at_zero_is_alpha() -> None:
    net = check_layer('type: "ELU" elu_param { alpha: 0.25 }', [(1, 2)], [(1, 2)])
    x = torch.zeros(1, 2, requires_grad=True)
    net.layer("l")(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.25, 0.25]]


@pytest.mark.parametrize(
    ("text", "scale", "alpha"),
    [("", 1.050700987, 1.67326324), ("selu_param { lambda: 2 alpha: 0.5 }", 2.0, 0.5)],
)
def test_selu(text: str, scale: float, alpha: float) -> None:
    check_layer(
        f'type: "SELU" {text}',
        [(2, 3, 4)],
        [(2, 3, 4)],
        lambda x: scale * np.where(x > 0, x, alpha * np.expm1(x)),
        in_place=True,
    )
