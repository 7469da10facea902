import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from tests.helpers import check_layer


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
def test_axis(axis: int) -> None:
    check_layer(
        f'type: "Softmax" softmax_param {{ axis: {axis} }}',
        [(2, 4, 3, 5)],
        [(2, 4, 3, 5)],
        lambda x: softmax(x, axis),
        in_place=True,
    )


@pytest.mark.parametrize("shape", [(3, 10), (2, 3, 4)])
def test_default_axis_is_one(shape: tuple[int, ...]) -> None:
    check_layer('type: "Softmax"', [shape], [shape], lambda x: softmax(x, 1))


def test_large_values_do_not_overflow() -> None:
    x = np.array([[1000.0, 999.0], [-1000.0, -1000.0]])
    check_layer('type: "Softmax"', [x], [(2, 2)], lambda v: softmax(v, 1), gradient=False)


def test_axis_outside() -> None:
    with pytest.raises(ShapeError, match=r"axis 2 is outside bottom shape \(2, 3\)"):
        check_layer('type: "Softmax" softmax_param { axis: 2 }', [(2, 3)], [(2, 3)])
