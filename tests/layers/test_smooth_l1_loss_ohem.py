import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.layers.smooth_l1_loss_ohem import SmoothL1LossOHEM
from caffe_bridge.net import Net
from tests.helpers import layer_spec_of
from tests.layers.losses import Array, check_loss, gradients, normal

SHAPE = (3, 4, 2, 2)


def costs(a: Array, b: Array, *weights: Array) -> Array:
    d = a - b
    if weights:
        d = d * weights[0]
    return np.where(abs(d) < 1, d**2 / 2, abs(d) - 0.5)


def layer(name: str, text: str = "") -> str:
    return f'type: "{name}" loss_param {{ {text} }}'


@pytest.mark.parametrize(
    ("text", "divisor"),
    [
        ("", 12), ("normalization: FULL", 12), ("normalization: BATCH_SIZE", 3),
        ("normalize: false", 3), ("normalization: NONE", 1),
        ("normalization: PRE_FIXED pre_fixed_normalizer: 8", 8),
        ("normalization: PRE_FIXED pre_fixed_normalizer: 0.5", 1),
    ],
)  # fmt: skip
def test_normalisation_and_parts(text: str, divisor: float) -> None:
    arrays = [normal(*SHAPE, seed=i) for i in range(3)]

    def want(*arrays: Array) -> list[Array]:
        values = costs(*arrays)
        return [values.sum() / divisor, values.sum(1, keepdims=True)]

    tops = [(), (3, 1, 2, 2)]
    check_loss(layer("SmoothL1LossOHEM", text), arrays, want, tops=tops, gradient=False)


def test_rows_of_values_are_boxes() -> None:
    check_loss(
        layer("SmoothL1LossOHEM"), [normal(3, 4), normal(3, 4, 1, 1, seed=1)],
        lambda a, b: [costs(a, b.reshape(3, 4)).sum() / 3,
                      costs(a, b.reshape(3, 4)).sum(1).reshape(3, 1, 1, 1)],
        tops=[(), (3, 1, 1, 1)], gradient=False,
    )  # fmt: skip


def test_gradient_leaves_the_weights_out() -> None:
    arrays = [normal(*SHAPE, seed=i) for i in range(3)]
    net = Net(layer_spec_of(layer("SmoothL1LossOHEM"), [SHAPE] * 3, 2, "TRAIN"))
    ours, theirs = gradients(net, arrays, (0, 1))
    d = arrays[2] * (arrays[0] - arrays[1])
    want = np.where(abs(d) < 1, d, np.sign(d)) / 12
    np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(theirs, -want, rtol=1e-5, atol=1e-6)


def test_gradient_without_weights_is_the_derivative() -> None:
    check_loss(layer("SmoothL1LossOHEM"), [normal(3, 4), normal(3, 4, seed=1)],
               lambda a, b: costs(a, b).sum() / 3)  # fmt: skip


def test_the_layer_of_this_name_in_rfcn() -> None:
    for text, tops in (("", 2), ("normalization: PRE_FIXED", 1), ("normalize: true", 1)):
        net = Net(layer_spec_of(layer("SmoothL1Loss", text), [(3, 4)] * 3, tops, "TRAIN"))
        assert isinstance(net.layer("l"), SmoothL1LossOHEM)
    plain = Net(layer_spec_of(layer("SmoothL1Loss"), [(3, 4)] * 4, 1, "TRAIN"))
    assert not isinstance(plain.layer("l"), SmoothL1LossOHEM)


def test_errors() -> None:
    with pytest.raises(ShapeError, match="differ"):
        Net(layer_spec_of(layer("SmoothL1LossOHEM"), [(3, 4), (3, 5)], 1, "TRAIN"))
