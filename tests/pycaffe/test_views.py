"""Arrays taken once from blobs stay views of them through later passes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

import caffe_bridge.pycaffe as caffe
from caffe_bridge.net import Net as WholeNet
from caffe_bridge.pycaffe.place import Place, choose_cpu, choose_gpu, register_place
from tests.executor.nets import CHAIN, data, fill, ip, layer, net
from tests.pycaffe.nets import DEPLOY, SOLVER, TRAIN, write

CLOSE = 1e-5
FORCED = "force_backward: true\n"


@pytest.fixture(params=["host", "device"], autouse=True)
def place(request: pytest.FixtureRequest) -> Iterator[None]:
    """Once where numpy sees the nets' memory, once with a second memory to be kept equal."""
    if request.param == "device":
        register_place(0, Place(torch.device("cpu"), separate=True))
        choose_gpu()
    yield
    choose_cpu()
    register_place(0, None)


def deploy() -> caffe.Net:
    return caffe.Net(write("deploy.prototxt", DEPLOY), caffe.TEST, seed=0)


def test_an_array_shows_the_next_forward() -> None:
    made = deploy()
    views = {name: blob.data for name, blob in made.blobs.items()}
    for value in (1.0, 2.0, 3.0):
        views["data"][...] = value
        out = made.forward()
        assert np.array_equal(made.blobs["data"].data, np.full((2, 3, 6, 6), value))
        for name, view in views.items():
            assert np.array_equal(view, made.blobs[name].data)
            assert np.shares_memory(view, made.blobs[name].data)
        assert np.shares_memory(out["prob"], views["prob"])
    assert views["ip"].any()


def test_a_part_of_an_array_counts_as_the_array() -> None:
    made = deploy()
    row = made.blobs["ip"].data[1]
    made.blobs["data"].data[...] = 1
    made.forward()
    assert np.array_equal(row, made.blobs["ip"].data[1])
    assert row.any()


def test_diffs_and_learnable_blobs_stay_views_too() -> None:
    made = caffe.Net(write("train.prototxt", TRAIN), caffe.TRAIN)
    diffs = {name: blob.diff for name, blob in made.blobs.items() if name != "label"}
    weight, gradient = made.params["ip"][0].data, made.params["ip"][0].diff
    for _ in range(2):
        made.clear_param_diffs()
        assert not gradient.any()
        made.forward()
        made.backward()
        for name, view in diffs.items():
            assert view.any()
            assert np.array_equal(view, made.blobs[name].diff)
        assert gradient.any()
        assert np.array_equal(gradient, made.params["ip"][0].diff)
    made.save("w.caffemodel")
    weight[...] = 0
    made.copy_from("w.caffemodel")
    assert weight.any()


def test_nothing_is_copied_for_arrays_that_are_gone() -> None:
    made = deploy()
    made.forward()
    before = made.blobs["ip"].values.value
    assert made.blobs["ip"].data.any() is not None
    made.forward()
    assert made.blobs["ip"].values.value.data_ptr() != before.data_ptr()


def test_another_shape_leaves_old_arrays_alone() -> None:
    made = deploy()
    made.blobs["data"].data[...] = 1
    made.forward()
    old = made.blobs["prob"].data
    kept = old.copy()
    made.blobs["data"].reshape(3, 3, 6, 6)
    made.forward()
    assert made.blobs["prob"].data.shape == (3, 5)
    assert np.array_equal(old, kept)


def test_edits_between_partial_passes_count() -> None:
    made = net(data("x", 2) + layer("Power", "a", "x", "a", "power_param { power: 2 }")
               + layer("Exp", "b", "a", "b"))  # fmt: skip
    x, a, b = (made.blobs[name].data for name in "xab")
    x[...] = [1, 2]
    made.forward()
    a[...] = [0, 1]
    made.forward(start="b")
    np.testing.assert_allclose(b, np.exp([0, 1]), rtol=CLOSE)
    x[...] = [2, 3]
    made.forward(end="a")
    assert a.tolist() == [4, 9]


@pytest.mark.parametrize("hold", [True, False])
def test_edits_between_forward_and_backward_count(hold: bool) -> None:
    """Sigmoid's gradient is made of its top, InnerProduct's of its bottom."""
    text = FORCED + data("x", 1, 2) + layer("Sigmoid", "s", "x", "s") + ip("y", "s", 1)
    made = fill(net(text))
    held = made.blobs["s"].data if hold else None
    made.forward()
    (made.blobs["s"].data if held is None else held)[...] = [[0.25, 0.5]]
    made.backward(y=np.ones((1, 1)))
    slope = np.array([0.25 * 0.75, 0.25]) * made.params["y"][0].data[0]
    np.testing.assert_allclose(made.blobs["x"].diff[0], slope, rtol=CLOSE)
    np.testing.assert_allclose(made.params["y"][0].diff, [[0.25, 0.5]], rtol=CLOSE)


def test_in_place_layers_keep_exact_gradients() -> None:
    text = (
        FORCED
        + data("x", 2, 3)
        + layer("Power", "a", "x", "a")
        + layer("Power", "before", "a", "before", "power_param { power: 2 }")
        + layer("ReLU", "r", "a", "a")
        + layer("Power", "after", "a", "after", "power_param { scale: 3 }")
        + layer("Reduction", "l1", "before", "l1", "loss_weight: 1")
        + layer("Reduction", "l2", "after", "l2", "loss_weight: 1")
    )
    made = fill(net(text))
    views = [blob.data for blob in made.blobs.values()]
    for _ in range(2):
        made.forward()
        made.backward()
        x = made.blobs["x"].data
        np.testing.assert_allclose(made.blobs["x"].diff, 2 * x + 3 * (x > 0), rtol=CLOSE)
    assert len(views) == len(made.blobs)


def test_blobs_that_share_memory_stay_apart() -> None:
    """A Flatten's top is its bottom's memory until somebody looks; ReLU writes only the top."""
    text = data("x", 1, 2, 2) + layer("Flatten", "f", "x", "f") + layer("ReLU", "r", "f", "f")
    made = net(text)
    x, f = made.blobs["x"].data, made.blobs["f"].data
    x[...] = [[[-1, 2], [3, -4]]]
    for _ in range(2):
        made.forward()
        assert x.ravel().tolist() == [-1, 2, 3, -4]
        assert f.tolist() == [[0, 2, 3, 0]]


def test_arrays_given_to_memory_data_are_not_written() -> None:
    text = """layer { name: "m" type: "MemoryData" top: "data" top: "label" memory_data_param {
      batch_size: 2 channels: 1 height: 1 width: 2 } }"""
    made = caffe.Net(write("m.prototxt", text), caffe.TEST)
    given = np.arange(8, dtype=np.float32).reshape(4, 1, 1, 2)
    kept = given.copy()
    made.set_input_arrays(given, np.arange(4, dtype=np.float32))
    view = made.blobs["data"].data
    for number in (0, 2, 0):
        made.forward()
        assert np.array_equal(view, kept[number : number + 2])
    assert np.array_equal(given, kept)


def test_solvers_update_arrays_that_are_held() -> None:
    write("train.prototxt", TRAIN)
    solver = caffe.SGDSolver(write("solver.prototxt", SOLVER))
    weight, diff = solver.net.params["ip"][0].data, solver.net.params["ip"][0].diff
    loss, tested = solver.net.blobs["loss"].data, solver.test_nets[0].params["ip"][0].data
    seen = []
    for _ in range(3):
        solver.step(1)
        assert np.array_equal(weight, solver.net.params["ip"][0].data)
        assert np.array_equal(weight, tested)
        seen.append((float(loss), weight.copy(), diff.copy()))
    assert all(not np.array_equal(a[1], b[1]) for a, b in pairwise(seen))
    assert seen[0][0] != seen[1][0]
    weight[...] = 0
    solver.test_nets[0].forward()
    assert not tested.any()
    solver.step(1)
    assert weight.any()


def test_gradients_edited_in_a_callback_are_used() -> None:
    write("train.prototxt", TRAIN)
    solver = caffe.SGDSolver(write("solver.prototxt", SOLVER.replace("0.0005", "0")))
    bias = solver.net.params["ip"][1]
    held, before = bias.diff, bias.data.copy()

    def edit() -> None:
        held[...] = 1

    solver.add_callback(lambda: None, edit)
    solver.step(1)
    np.testing.assert_allclose(before - bias.data, 0.01, rtol=1e-4)


def test_training_is_that_of_the_whole_graph_whatever_is_held() -> None:
    made = fill(net(CHAIN, caffe.TRAIN))
    views = [array for blob in made.blobs.values() for array in (blob.data, blob.diff)]
    whole = WholeNet(made.built.spec)
    for mine, other in zip(made.learnable, whole.learnable, strict=True):
        other.value.data.copy_(mine.value.detach())
    feed = {name: torch.from_numpy(made.blobs[name].data.copy()) for name in made.inputs}
    for _ in range(2):
        assert made.forward_backward() == pytest.approx(whole.forward_backward(feed), rel=CLOSE)
    for mine, other in zip(made.learnable, whole.learnable, strict=True):
        torch.testing.assert_close(mine.value.grad, other.value.grad, rtol=CLOSE, atol=CLOSE)
    assert all(np.isfinite(view).all() for view in views)
