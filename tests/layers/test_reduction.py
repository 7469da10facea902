from collections.abc import Callable

import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from tests.helpers import Array, check_layer

SHAPE = (2, 3, 4)
OPERATIONS: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "SUM": lambda x, axes: x.sum(axes),
    "ASUM": lambda x, axes: np.abs(x).sum(axes),
    "SUMSQ": lambda x, axes: np.square(x).sum(axes),
    "MEAN": lambda x, axes: x.mean(axes),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("axis", "first"), [(0, 0), (1, 1), (-1, 2)])
@pytest.mark.parametrize("coeff", [1.0, -0.5])
def test_reduction(operation: str, axis: int, first: int, coeff: float) -> None:
    check_layer(
        f'type: "Reduction" reduction_param {{ operation: {operation} axis: {axis} '
        f"coeff: {coeff} }}",
        [SHAPE],
        [SHAPE[:first]],
        lambda x: coeff * OPERATIONS[operation](x, tuple(range(first, 3))),
    )


def test_default_is_the_sum_of_everything() -> None:
    check_layer('type: "Reduction"', [SHAPE], [()], lambda x: x.sum())


def test_gradient_of_asum_at_zero() -> None:
    net = check_layer('type: "Reduction" reduction_param { operation: ASUM }', [(1, 3)], [()])
    x = torch.tensor([[-2.0, 0.0, 2.0]], requires_grad=True)
    net.layer("l")(x).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[-1.0, 0.0, 1.0]]


def test_axis_is_checked() -> None:
    with pytest.raises(ShapeError, match=r"axis 3 is outside bottom shape \(2, 3, 4\)"):
        check_layer('type: "Reduction" reduction_param { axis: 3 }', [SHAPE], [()])
