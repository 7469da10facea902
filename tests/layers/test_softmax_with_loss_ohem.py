import numpy as np
import pytest

from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import net_text
from tests.layers.losses import Array, check_loss, gradients, labels, normal, softmax

TEXT = 'type: "SoftmaxWithLossOHEM" loss_param {{ ignore_label: -1 {} }}'


def parts(x: Array, label: Array) -> Array:
    """Costs of the positions, classes on axis 1."""
    p = np.moveaxis(softmax(x), 1, -1).reshape(-1, x.shape[1])
    flat = label.reshape(-1).astype(int)
    picked = p[np.arange(len(flat)), np.maximum(flat, 0)]
    return np.where(flat >= 0, -np.log(picked), 0).reshape(label.shape)


def reference(x: Array, label: Array) -> list[Array]:
    costs = parts(x, label)
    return [costs.sum() / max(1, (label >= 0).sum()), softmax(x), costs]


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2, 3)])
def test_three_tops(shape: tuple[int, ...]) -> None:
    label = labels(4, shape[0], 1, *shape[2:])
    label.reshape(-1)[1] = -1
    tops = [(), shape, label.shape]
    check_loss(TEXT.format(""), [normal(*shape), label], reference, tops=tops, gradient=False)


def test_gradient_comes_from_the_loss_alone() -> None:
    x, label = normal(3, 4), labels(4, 3)
    net = check_loss(TEXT.format("normalization: NONE"), [x, label],
                     lambda x, label: parts(x, label).sum())  # fmt: skip
    (grad,) = gradients(net, [x, label])
    hot = np.eye(4)[label.astype(int)]
    np.testing.assert_allclose(grad, softmax(x) - hot, rtol=1e-5, atol=1e-6)


def test_the_plain_layer_has_the_third_top_too() -> None:
    spec = parse_net(net_text('type: "SoftmaxWithLoss"', [(5, 4), (5,)], 3), "TRAIN")
    assert Net(spec).shapes_for({})["out2"] == (5, 1, 1, 1)
