import numpy as np
import torch

from caffe_bridge.graph import parse_net
from caffe_bridge.layers.loss import floor
from caffe_bridge.net import Net
from tests.helpers import net_text


def test_floor_passes_gradient_below_it() -> None:
    x = torch.tensor([-2.0, 3.0], requires_grad=True)
    y = floor(x, -1.0)
    y.sum().backward()
    assert y.tolist() == [-1.0, 3.0]
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0]


def test_loss_without_top_counts_with_weight_one() -> None:
    net = Net(parse_net(net_text('type: "EuclideanLoss"', [(2, 3), (2, 3)], 0), "TEST"))
    feed = {"in0": torch.ones(2, 3), "in1": torch.zeros(2, 3)}
    assert net.forward_backward(feed) == 1.5


def test_loss_weight_scales_loss_and_gradient() -> None:
    text = net_text('type: "SoftmaxWithLoss" loss_weight: 0.5', [(2, 3), (2,)], 1)
    net = Net(parse_net(text, "TEST"))
    x = torch.zeros(2, 3, requires_grad=True)
    loss = net.forward_backward({"in0": x, "in1": torch.tensor([0.0, 2.0])})
    np.testing.assert_allclose(loss, 0.5 * np.log(3), rtol=1e-6)
    assert x.grad is not None
    want = 0.25 * (np.full((2, 3), 1 / 3) - np.eye(3)[[0, 2]])
    np.testing.assert_allclose(x.grad.numpy(), want, rtol=1e-5)
