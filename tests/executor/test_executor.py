"""The layer-by-layer executor: gradients in blobs, partial passes, in-place layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net as WholeNet
from caffe_bridge.pycaffe import TRAIN, Net
from tests.executor.nets import CHAIN, data, fill, ip, layer, net

#: float32 sums in another order.
CLOSE = 1e-5

SQUARE = "power_param { power: 2 }"
FORCED = "force_backward: true\n"
BRANCHES = (
    FORCED
    + data("x", 2, 3)
    + ip("a", "x", 3)
    + layer("Power", "p", "a", "p", SQUARE)
    + layer("TanH", "q", "a", "q")
    + layer("Eltwise", "s", "p q a", "s")
    + layer("Reduction", "loss", "s", "loss", "loss_weight: 0.5")
)


def numeric(made: Net, blob: str, loss: str, weight: float) -> np.ndarray:
    """Central differences of the weighted loss with respect to a blob that is fed."""
    values, result = made.blobs[blob].data, np.zeros(made.blobs[blob].shape)
    for index in np.ndindex(*values.shape):
        old, ends = values[index], []
        for step in (1e-2, -1e-2):
            values[index] = old + step
            ends.append(float(made.forward()[loss]) * weight)
        values[index] = old
        result[index] = (ends[0] - ends[1]) / 2e-2
    made.forward()
    return result


def test_several_consumers_sum_their_gradients() -> None:
    made = fill(net(BRANCHES))
    want = numeric(made, "x", "loss", 0.5)
    made.backward()
    np.testing.assert_allclose(made.blobs["x"].diff, want, rtol=1e-2, atol=5e-3)
    a = made.blobs["a"]
    exact = 0.5 * (2 * a.data + (1 - np.tanh(a.data) ** 2) + 1)
    np.testing.assert_allclose(a.diff, exact, rtol=CLOSE, atol=CLOSE)


def test_a_loss_that_is_read_gets_both_gradients() -> None:
    """loss = u + 2 u^2 with u also read: dloss/du = 1 + 4 u, in this and in every later pass."""
    text = (
        data("x", 1, 1)
        + data("t", 1, 1)
        + ip("a", "x", 1)
        + layer("EuclideanLoss", "u", "a t", "u", "loss_weight: 1")
        + layer("Power", "v", "u", "v", f"{SQUARE} loss_weight: 2")
    )
    made = fill(net(text))
    for _ in range(3):
        made.forward()
        made.backward()
        u = made.blobs["u"]
        np.testing.assert_allclose(u.diff, 1 + 4 * u.data, rtol=CLOSE)


@pytest.mark.parametrize("text", [CHAIN, BRANCHES], ids=["chain", "branches"])
def test_agrees_with_the_whole_graph_executor(text: str) -> None:
    made = fill(net(text, TRAIN))
    whole = WholeNet(parse_net(text, "TRAIN"))
    for mine, other in zip(made.learnable, whole.learnable, strict=True):
        other.value.data.copy_(mine.value)
    feed = {name: torch.from_numpy(made.blobs[name].data.copy()) for name in made.inputs}
    for _ in range(2):
        assert made.forward_backward() == pytest.approx(whole.forward_backward(feed), rel=CLOSE)
    for mine, other in zip(made.learnable, whole.learnable, strict=True):
        assert mine.value.grad is not None
        torch.testing.assert_close(mine.value.grad, other.value.grad, rtol=CLOSE, atol=CLOSE)


def test_in_place_layers_share_one_blob() -> None:
    made = fill(net(CHAIN, TRAIN))
    made.forward()
    linear = made.blobs["x"].data @ made.params["a"][0].data.T + made.params["a"][1].data
    np.testing.assert_allclose(made.blobs["a"].data, np.maximum(linear, 0), atol=CLOSE)
    made.backward()
    difference = (made.blobs["a"].data - made.blobs["t"].data) / 2
    np.testing.assert_allclose(made.blobs["a"].diff, difference * (linear > 0), atol=CLOSE)


def test_blob_read_before_an_in_place_layer_overwrites_it() -> None:
    text = (
        FORCED
        + data("x", 2, 3)
        + layer("Power", "a", "x", "a")
        + layer("Power", "before", "a", "before", SQUARE)
        + layer("ReLU", "r", "a", "a")
        + layer("Power", "after", "a", "after", "power_param { scale: 3 }")
        + layer("Reduction", "l1", "before", "l1", "loss_weight: 1")
        + layer("Reduction", "l2", "after", "l2", "loss_weight: 1")
    )
    made = fill(net(text))
    made.forward()
    made.backward()
    x = made.blobs["x"].data
    np.testing.assert_allclose(made.blobs["before"].data, x**2, rtol=CLOSE)
    np.testing.assert_allclose(made.blobs["after"].data, 3 * np.maximum(x, 0), rtol=CLOSE)
    np.testing.assert_allclose(made.blobs["x"].diff, 2 * x + 3 * (x > 0), rtol=CLOSE)


def test_partial_forward_uses_what_blobs_hold() -> None:
    text = data("x", 2) + layer("Power", "a", "x", "a", SQUARE) + layer("Exp", "b", "a", "b")
    made = net(text)
    made.blobs["x"].data[...] = [1, 2]
    made.forward()
    made.blobs["a"].data[...] = [0, 1]
    out = made.forward(start="b")
    np.testing.assert_allclose(out["b"], np.exp([0, 1]), rtol=CLOSE)
    np.testing.assert_array_equal(made.blobs["a"].data, [0, 1])
    made.blobs["x"].data[...] = [3, 4]
    assert list(made.forward(end="a")) == ["a"]
    np.testing.assert_array_equal(made.blobs["a"].data, [9, 16])
    np.testing.assert_allclose(made.blobs["b"].data, np.exp([0, 1]), rtol=CLOSE)


def test_partial_backward() -> None:
    text = (
        FORCED + data("x", 2) + layer("Power", "a", "x", "a", SQUARE) + layer("Exp", "b", "a", "b")
    )
    made = net(text)
    made.forward(x=np.array([1.0, 0.5]))
    made.backward(start="b", end="b", b=np.ones(2))
    np.testing.assert_allclose(made.blobs["a"].diff, np.exp([1, 0.25]), rtol=CLOSE)
    assert not made.blobs["x"].diff.any()
    made.blobs["a"].diff[...] = [10, 20]
    made.backward(start="a")
    np.testing.assert_allclose(made.blobs["x"].diff, [20, 20], rtol=CLOSE)


def test_backward_may_be_repeated_and_adds_to_weights_only() -> None:
    made = fill(net(CHAIN, TRAIN))
    made.forward()
    made.backward()
    once = made.params["a"][0].diff.copy()
    top = made.blobs["a"].diff.copy()
    made.forward()
    made.backward()
    np.testing.assert_allclose(made.params["a"][0].diff, 2 * once, rtol=CLOSE)
    np.testing.assert_allclose(made.blobs["a"].diff, top, rtol=CLOSE)
    made.clear_param_diffs()
    assert not made.params["a"][0].diff.any()


def test_loss_diffs_are_the_loss_weights() -> None:
    made = fill(net(BRANCHES))
    assert made.blobs["loss"].diff == 0.5
    assert made.forward_backward() == pytest.approx(0.5 * float(made.blobs["loss"].data))
    made.blobs["x"].reshape(5, 3)
    made.reshape()
    made.forward()
    assert made.blobs["loss"].diff == 0.5


def test_edited_loss_diff_scales_gradients() -> None:
    made = fill(net(CHAIN, TRAIN))
    made.forward()
    made.backward()
    once = made.blobs["a"].diff.copy()
    made.blobs["loss"].diff[...] = 3
    made.forward()
    made.backward()
    np.testing.assert_allclose(made.blobs["a"].diff, 3 * once, rtol=CLOSE)


@pytest.mark.parametrize("forced", [False, True])
def test_force_backward(forced: bool) -> None:
    made = fill(net((FORCED if forced else "") + CHAIN, TRAIN))
    made.forward()
    made.backward()
    assert made.blobs["x"].diff.any() == forced
    assert made.params["a"][0].diff.any()


def test_without_loss_nothing_is_propagated() -> None:
    text = data("x", 2, 3) + ip("a", "x", 2)
    made = fill(net(text))
    made.forward()
    made.backward(a=np.ones((2, 2)))
    assert not made.params["a"][0].diff.any()
    forced = fill(net(FORCED + text))
    forced.forward()
    forced.backward(a=np.ones((2, 2)))
    np.testing.assert_allclose(
        forced.blobs["x"].diff, np.tile(forced.params["a"][0].data.sum(0), (2, 1)), rtol=CLOSE
    )


def test_propagate_down_cuts() -> None:
    text = (
        data("x", 2, 3)
        + data("t", 2, 2)
        + ip("a", "x", 3)
        + ip("b", "a", 2, "propagate_down: false")
        + layer("EuclideanLoss", "loss", "b t", "loss")
    )
    made = fill(net(text, TRAIN))
    made.forward()
    made.backward()
    assert made.params["b"][0].diff.any()
    assert not made.params["a"][0].diff.any()


def test_frozen_blobs_get_no_gradient() -> None:
    frozen = CHAIN.replace("type: 'InnerProduct'", "type: 'InnerProduct' param { lr_mult: 0 }")
    made = fill(net(frozen, TRAIN))
    made.forward()
    made.backward()
    assert not made.params["a"][0].diff.any()
    assert made.params["a"][1].diff.any()


def test_small_passes_run_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    made = fill(net(CHAIN, TRAIN))
    inner = made.built.layers[-1].run

    def spy(bottoms: list[torch.Tensor]) -> list[torch.Tensor]:
        used.append(torch.get_num_threads())
        return list(inner(bottoms))

    monkeypatch.setattr(made.built.layers[-1], "run", spy)
    torch.set_num_threads(2)
    try:
        made.forward()
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(made.executor, "_small", False)
        made.forward()
    finally:
        torch.set_num_threads(1)
    assert used == [1, 2]
