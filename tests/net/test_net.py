"""Running nets: feeding, losses, gradients, sharing."""

from __future__ import annotations

import copy

import pytest
import torch

from caffe_bridge.errors import BlobError, GraphError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net


def data(name: str = "x", dims: str = "2, 3") -> str:
    return (
        f"layer {{ name: 'd_{name}' type: 'Input' top: '{name}' "
        f"input_param {{ shape {{ dim: [{dims}] }} }} }}\n"
    )


def ip(name: str, bottom: str, top: str, extra: str = "", outputs: int = 3) -> str:
    return (
        f"layer {{ name: '{name}' type: 'InnerProduct' bottom: '{bottom}' top: '{top}' {extra} "
        f"inner_product_param {{ num_output: {outputs} weight_filler {{ type: 'xavier' }} }} }}\n"
    )


def relu(bottom: str, top: str) -> str:
    return f"layer {{ name: 'relu_{top}' type: 'ReLU' bottom: '{bottom}' top: '{top}' }}\n"


def made(text: str, phase: str = "TEST") -> Net:
    return Net(parse_net(text, phase, "n.prototxt"), seed=1)


X = torch.tensor([[1.0, -2, 3], [0.5, 1, -1]])


def test_forward() -> None:
    net = made(data() + ip("a", "x", "y") + relu("y", "y") + ip("b", "y", "z"))
    assert net.inputs == {"x": (2, 3)}
    assert net.outputs == ["z"]
    first, second = net.layer("a").blobs, net.layer("b").blobs
    hidden = torch.relu(X @ first[0].T + first[1])
    result = net({"x": X})
    assert list(result) == ["z"]
    assert torch.allclose(result["z"], hidden @ second[0].T + second[1])
    assert torch.allclose(net.values["y"], hidden)
    assert torch.equal(net(x=X)["z"], result["z"])
    assert [v.name for v in net.built.graph.values] == ["x", "y@a", "y", "z"]


def test_outputs_are_sorted() -> None:
    net = made(data() + ip("a", "x", "z") + ip("b", "x", "a") + ip("c", "x", "m"))
    assert net.outputs == list(net({"x": X})) == ["a", "m", "z"]


def test_what_is_missing_is_named() -> None:
    net = made(data() + data("q"))
    with pytest.raises(BlobError, match=r"d_q \(Input\) at n.prototxt:2: input 'q' was not given"):
        net({"x": X})
    with pytest.raises(BlobError, match=r"n\.prototxt: has no layer 'zz'"):
        net.layer("zz")


def test_loss_weights() -> None:
    net = made(
        data()
        + ip("a", "x", "y", "loss_weight: 0.5")
        + ip("b", "x", "z")
        + "layer { name: 'e' type: 'EuclideanLoss' bottom: 'y' bottom: 'z' }\n"
        + "layer { name: 'f' type: 'EuclideanLoss' bottom: 'y' bottom: 'x' loss_weight: 0 }"
    )
    weights = {net.built.graph.values[i].blob: w for i, w in net.built.loss_weights().items()}
    assert weights == {"y": 0.5, "(automatic)_e_0": 1.0}
    loss = net.forward_backward({"x": X})
    wanted = 0.5 * net.values["y"].sum() + ((net.values["y"] - net.values["z"]) ** 2).sum() / 4
    assert loss == pytest.approx(float(wanted), rel=1e-6)
    gradient = net.learnable[0].value.grad.clone()
    assert net.evaluate({"x": X}) == pytest.approx(loss, rel=1e-6)
    assert torch.equal(net.learnable[0].value.grad, gradient)


def test_gradients_accumulate_and_a_net_without_loss_has_none() -> None:
    net = made(data() + ip("a", "x", "y", "loss_weight: 2"))
    net.forward_backward({"x": X})
    weight = net.learnable[0].value
    assert torch.allclose(weight.grad, 2 * X.sum(0).expand(3, 3))
    net.forward_backward({"x": X})
    assert torch.allclose(weight.grad, 4 * X.sum(0).expand(3, 3))
    assert made(data() + ip("a", "x", "y")).forward_backward({"x": X}) == 0.0


def test_frozen_blobs_get_no_gradient() -> None:
    net = made(data() + ip("a", "x", "y", "loss_weight: 1 param { lr_mult: 0 }"))
    net.forward_backward({"x": X})
    assert net.learnable[0].value.grad is None
    assert net.learnable[1].value.grad is not None


SHARED = "param { name: 'w' } param { name: 'b' }"


def test_sharing_is_one_tensor_with_summed_gradients() -> None:
    net = made(data() + ip("a", "x", "y", SHARED) + ip("b", "y", "z", f"{SHARED} loss_weight: 1"))
    assert [(b.layer, b.index, b.name) for b in net.learnable] == [("a", 0, "w"), ("a", 1, "b")]
    assert net.layer("a").blobs[0] is net.layer("b").blobs[0]
    assert len(list(net.parameters())) == 2
    net.forward_backward({"x": X})
    weight, bias = (b.value.detach().clone().requires_grad_() for b in net.learnable)
    hidden = X @ weight.T + bias
    (hidden @ weight.T + bias).sum().backward()
    assert torch.allclose(net.learnable[0].value.grad, weight.grad)
    assert torch.allclose(net.learnable[1].value.grad, bias.grad)


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_propagate_down(wanted: str) -> None:
    extra = f"propagate_down: {wanted} loss_weight: 1"
    net = made(data() + ip("a", "x", "y") + ip("b", "y", "z", extra))
    net.forward_backward({"x": X})
    assert (net.layer("a").blobs[0].grad is not None) is (wanted == "true")
    assert net.layer("b").blobs[0].grad is not None


def test_propagate_down_must_fit() -> None:
    with pytest.raises(GraphError, match="gives propagate_down 2 times for 1 bottoms"):
        made(data() + ip("a", "x", "y", "propagate_down: [true, true]"))


def test_a_deep_copy_is_apart() -> None:
    net = made(data() + ip("a", "x", "y", SHARED) + ip("b", "y", "z", SHARED))
    twin = copy.deepcopy(net)
    before = net({"x": X})["z"].detach().clone()
    with torch.no_grad():
        twin.learnable[0].value.add_(1.0)
    assert torch.equal(net({"x": X})["z"], before)
    assert not torch.equal(twin({"x": X})["z"], before)
    assert twin.layer("a").blobs[0] is twin.layer("b").blobs[0] is twin.learnable[0].value
    assert twin.spec.layers[1].record == net.spec.layers[1].record


def test_phases() -> None:
    rules = relu("x", "y").replace("top:", "include { phase: TRAIN } top:")
    assert made(data() + rules, "TRAIN").outputs == ["y"]
    assert made(data() + rules, "TEST").outputs == ["x"]
