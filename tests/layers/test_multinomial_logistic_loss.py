import numpy as np
import pytest

from caffe_bridge.errors import DataError
from tests.layers.losses import check_loss, gradients, labels, normal, softmax


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 1, 1)])
def test_cross_entropy(shape: tuple[int, ...]) -> None:
    check_loss(
        'type: "MultinomialLogisticLoss"',
        [softmax(normal(*shape)), labels(shape[1], shape[0])],
        lambda p, y: np.asarray(
            -np.log(p.reshape(shape[0], -1)[np.arange(shape[0]), y.astype(int)]).mean()
        ),
    )


def test_floor() -> None:
    bottoms = [np.array([[0.0, 1.0]]), np.zeros(1)]
    net = check_loss(
        'type: "MultinomialLogisticLoss"',
        bottoms,
        lambda *_: np.asarray(-np.log(1e-20)),
        gradient=False,
    )
    np.testing.assert_allclose(gradients(net, bottoms)[0], [[-1e20, 0.0]], rtol=1e-6)


def test_label_outside_the_classes() -> None:
    with pytest.raises(DataError, match=r"label 2 is outside 0\.\.1"):
        check_loss(
            'type: "MultinomialLogisticLoss"',
            [np.full((1, 2), 0.5), np.full(1, 2)],
            lambda *_: None,
        )
