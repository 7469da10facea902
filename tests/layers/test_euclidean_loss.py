import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text
from tests.layers.losses import gradients, normal


@pytest.mark.parametrize("shape", [(4, 5), (3, 2, 2, 2), (6,)])
def test_half_mean_squared_distance(shape: tuple[int, ...]) -> None:
    check_layer(
        'type: "EuclideanLoss"',
        [shape, shape],
        [()],
        lambda a, b: np.asarray(((a - b) ** 2).sum() / (2 * shape[0])),
    )


def test_rows_of_another_form() -> None:
    check_layer(
        'type: "EuclideanLoss"',
        [(3, 4), (3, 2, 1, 2)],
        [()],
        lambda a, b: np.asarray(((a - b.reshape(3, 4)) ** 2).sum() / 6),
    )


def test_gradient_of_both_bottoms() -> None:
    a, b = normal(2, 3), normal(2, 3, seed=1)
    net = check_layer('type: "EuclideanLoss"', [(2, 3), (2, 3)], [()])
    first, second = gradients(net, [a, b], (0, 1))
    np.testing.assert_allclose(first, (a - b) / 2, rtol=1e-6)
    np.testing.assert_allclose(second, (b - a) / 2, rtol=1e-6)


def test_other_counts_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"shapes \(2, 3\) and \(2, 4\) differ"):
        check_layer('type: "EuclideanLoss"', [(2, 3), (2, 4)], [()])


def test_a_blob_without_axes_is_one_row() -> None:
    net = Net(parse_net(net_text('type: "EuclideanLoss"', [(), ()], 1)))
    made = net({"in0": torch.tensor(3.0), "in1": torch.tensor(1.0)})
    assert [float(top) for top in made.values()] == [2.0]
