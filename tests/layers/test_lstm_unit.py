import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from tests.helpers import check_layer
from tests.layers.test_lstm import sigmoid


def reference(c: np.ndarray, gates: np.ndarray, cont: np.ndarray) -> list[np.ndarray]:
    i, f, o, g = np.split(gates, 4, 2)
    after = cont[..., None] * sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [after, sigmoid(o) * np.tanh(after)]


def test_cell() -> None:
    check_layer(
        'type: "LSTMUnit"',
        [(1, 3, 2), (1, 3, 8), np.array([[1, 0, 1]])],
        [(1, 3, 2), (1, 3, 2)],
        reference,
    )


def test_shapes_must_fit() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 3, 2\), \(1, 3, 6\) and \(1, 3\) do not fit"):
        check_layer('type: "LSTMUnit"', [(1, 3, 2), (1, 3, 6), (1, 3)], [(1, 3, 2)] * 2)
