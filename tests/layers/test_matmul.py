import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.net import Net
from tests.helpers import check_layer, layer_spec_of


@pytest.mark.parametrize("lead", [(2,), (2, 3), ()])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_products(lead: tuple[int, ...], turned: tuple[bool, bool]) -> None:
    a = (*lead, 4, 3) if turned[0] else (*lead, 3, 4)
    b = (*lead, 5, 4) if turned[1] else (*lead, 4, 5)

    def reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x = np.swapaxes(x, -1, -2) if turned[0] else x
        return x @ (np.swapaxes(y, -1, -2) if turned[1] else y)

    check_layer(
        f'type: "MatMul" matmul_param {{ transpose_a: {str(turned[0]).lower()} '
        f"transpose_b: {str(turned[1]).lower()} }}",
        [a, b],
        [(*lead, 3, 5)],
        reference,
        macs=int(np.prod(lead)) * 60,
    )


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((2, 3, 4), (2, 3, 5), "do not multiply: 4 columns, 3 rows"),
        ((2, 3, 4), (1, 4, 5), "equal leading axes"),
        ((2, 3, 4), (4, 5), "equal leading axes"),
        ((3,), (3,), "two axes or more"),
    ],
)
def test_errors(a: tuple[int, ...], b: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of('type: "MatMul"', [a, b], 1, "TEST"))
