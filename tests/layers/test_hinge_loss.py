import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from tests.layers.losses import check_loss, gradients, labels, normal


@pytest.mark.parametrize("norm", ["", "norm: L1", "norm: L2"])
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 2)])
def test_hinge(norm: str, shape: tuple[int, ...]) -> None:
    classes = int(np.prod(shape[1:]))

    def reference(x: np.ndarray, label: np.ndarray) -> np.ndarray:
        signs = np.where(np.arange(classes) == label.reshape(-1, 1), -1.0, 1.0)
        margins = np.maximum(0, 1 + signs * x.reshape(shape[0], -1))
        return np.asarray((margins**2 if norm.endswith("2") else margins).sum() / shape[0])

    check_loss(
        f'type: "HingeLoss" hinge_loss_param {{ {norm} }}',
        [normal(*shape), labels(classes, shape[0])],
        reference,
    )


def test_gradient_is_zero_at_the_hinge() -> None:
    bottoms = [np.array([[1.0, -1.0, -2.0, 0.5]]), np.zeros(1)]
    net = check_loss('type: "HingeLoss"', bottoms, lambda *_: np.asarray(1.5), gradient=False)
    assert gradients(net, bottoms)[0].tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_labels_of_a_map_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"must hold one value for each of the 2 rows"):
        check_loss('type: "HingeLoss"', [normal(2, 3, 4), labels(3, 2, 4)], lambda *_: None)
