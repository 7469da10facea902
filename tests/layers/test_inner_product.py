import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from tests.helpers import check_layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transpose", [True, False])
def test_axis_one(bias: bool, transpose: bool) -> None:
    def reference(x: np.ndarray, w: np.ndarray, *b: np.ndarray) -> np.ndarray:
        return x.reshape(3, -1) @ (w if transpose else w.T) + sum(b)

    check_layer(
        'type: "InnerProduct" inner_product_param { num_output: 5 '
        f"bias_term: {str(bias).lower()} transpose: {str(transpose).lower()} }}",
        [(3, 2, 4, 3)],
        [(3, 5)],
        reference,
        macs=3 * 24 * 5,
    )


@pytest.mark.parametrize(("axis", "top"), [(2, (3, 2, 5)), (-1, (3, 2, 4, 5)), (0, (5,))])
def test_other_axes(axis: int, top: tuple[int, ...]) -> None:
    check_layer(
        f'type: "InnerProduct" inner_product_param {{ num_output: 5 axis: {axis} }}',
        [(3, 2, 4, 3)],
        [top],
        lambda x, w, b: x.reshape(*top[:-1], -1) @ w.T + b,
        onnx=axis != 0,
    )


def test_num_output_is_needed() -> None:
    with pytest.raises(ShapeError, match=r"l \(InnerProduct\).*num_output is missing"):
        check_layer('type: "InnerProduct"', [(3, 2)], [(3, 5)])
