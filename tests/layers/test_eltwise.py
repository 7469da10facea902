import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text


def eltwise(text: str) -> str:
    return f'type: "Eltwise" eltwise_param {{ {text} }}'


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("shape", [(2, 3, 4, 2), (3, 5), (4,)])
@pytest.mark.parametrize(
    ("operation", "combine"),
    [
        ("PROD", lambda *x: np.prod(x, 0)),
        ("SUM", lambda *x: np.sum(x, 0)),
        ("MAX", lambda *x: np.max(x, 0)),
    ],
)
def test_operation(operation: str, combine, count: int, shape: tuple[int, ...]) -> None:
    check_layer(eltwise(f"operation: {operation}"), [shape] * count, [shape], combine)


@pytest.mark.parametrize(
    "factors", [(1.0, -1.0), (-1.0, 1.0, 0.5), (2.0, -3.0, 1.0), (1.0, 0.0, 0.0)]
)
def test_coefficients(factors: tuple[float, ...]) -> None:
    text = " ".join(f"coeff: {c}" for c in factors)
    check_layer(
        eltwise(text),
        [(2, 3)] * len(factors),
        [(2, 3)],
        lambda *x: sum(c * v for c, v in zip(factors, x, strict=True)),
    )


def gradients(operation: str, *values: list[float]) -> list[list[float]]:
    shapes = [(1, len(v)) for v in values]
    net = Net(parse_net(net_text(eltwise(f"operation: {operation}"), shapes, 1)))
    leaves = [torch.tensor([v], dtype=torch.float, requires_grad=True) for v in values]
    net.layer("l")(*leaves).sum().backward()
    return [leaf.grad[0].tolist() for leaf in leaves]


def test_ties_of_the_maximum_go_to_the_second_bottom() -> None:
    assert gradients("MAX", [1, 1, 2], [1, 1, 1], [1, 0, 2]) == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]


def test_gradient_of_a_product_with_zeros() -> None:
    assert gradients("PROD", [0, 2], [3, 0], [5, 0]) == [[15, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("", [(2, 3), (2, 1)], r"one shape, found \(2, 3\), \(2, 1\)"),
        ("coeff: 1", [(2, 3)] * 2, "gives 1 coeff for 2 bottoms"),
        ("operation: PROD coeff: 1 coeff: 1", [(2, 3)] * 2, "coeff with operation PROD"),
        ("", [(2, 3)], "takes at least 2 bottoms, found 1"),
    ],
)
def test_errors(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(eltwise(text), shapes, [(2, 3)])


def test_nothing_is_broadcast_at_run_time() -> None:
    net = Net(parse_net(net_text(eltwise(""), [(2, 3)] * 2, 1)))
    with pytest.raises(ShapeError, match="bottoms must have one shape"):
        net.layer("l")(torch.zeros(2, 3), torch.zeros(1, 3))
