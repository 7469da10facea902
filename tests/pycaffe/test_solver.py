from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import BackendError
from tests.pycaffe.nets import SOLVER, TRAIN, write


@pytest.fixture
def solver() -> caffe.PySolver:
    write("train.prototxt", TRAIN)
    return caffe.get_solver(write("solver.prototxt", SOLVER))


def test_solve_runs_to_max_iter(solver: caffe.PySolver) -> None:
    assert solver.iter == 0
    solver.solve()
    assert solver.iter == 20


def test_nets_outlive_the_solver(solver: caffe.PySolver) -> None:
    net, tested = solver.net, solver.test_nets[0]
    del solver
    assert sum(blob.data.sum() for blob in net.params["conv"]) != 0
    assert tested.blobs["loss"].shape == ()


def test_test_net_shares_the_weights(solver: caffe.PySolver) -> None:
    solver.net.params["ip"][0].data[...] = 4
    assert np.all(solver.test_nets[0].params["ip"][0].data == 4)


def test_snapshot_and_restore(solver: caffe.PySolver) -> None:
    solver.step(5)
    solver.snapshot()
    assert Path("model_iter_5.caffemodel").stat().st_size > 0
    want = np.array(solver.net.params["ip"][0].data)
    solver.step(2)
    assert not np.array_equal(want, solver.net.params["ip"][0].data)
    solver.restore("model_iter_5.solverstate")
    assert solver.iter == 5
    np.testing.assert_array_equal(want, solver.net.params["ip"][0].data)


def test_callbacks(solver: caffe.PySolver) -> None:
    calls: list[str] = []
    solver.add_callback(lambda: calls.append("start"), lambda: calls.append("gradients"))
    solver.step(2)
    assert calls == ["start", "gradients"] * 2


def test_lr_and_param(solver: caffe.PySolver) -> None:
    assert solver.param.max_iter == 20
    assert solver.param.display == 100
    assert solver.lr == pytest.approx(0.01)
    solver.step(10)
    assert solver.lr == pytest.approx(0.01 * (1 + 0.0001 * 10) ** -0.75)


def test_apply_update_by_hand(solver: caffe.PySolver) -> None:
    solver.net.clear_param_diffs()
    before = np.array(solver.net.params["ip"][1].data)
    solver.net.params["ip"][1].diff[...] = 1
    solver.apply_update()
    change = before - solver.net.params["ip"][1].data
    np.testing.assert_allclose(change, 0.01 * (1 + 0.0005 * before), rtol=1e-5)


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_solvers_by_class(kind: str) -> None:
    write("train.prototxt", TRAIN)
    text = SOLVER.replace("momentum: 0.9", "delta: 1e-3")
    if kind in ("Nesterov", "AdaDelta", "Adam"):
        text += "momentum: 0.9 momentum2: 0.99\n"
    made = getattr(caffe, f"{kind}Solver")(write("s.prototxt", text))
    assert made.param.type == kind
    made.step(2)
    assert made.iter == 2


def test_share_weights(solver: caffe.PySolver) -> None:
    other = caffe.Net("train.prototxt", caffe.TEST)
    solver.share_weights(other)
    solver.net.params["ip"][0].data[...] = 2
    assert np.all(other.params["ip"][0].data == 2)


def test_several_processes_are_explained() -> None:
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    caffe.set_solver_count(1)
    for call in (lambda: caffe.set_solver_count(2), lambda: caffe.set_solver_rank(1),
                 lambda: caffe.set_multiprocess(True), lambda: caffe.NCCL(None, "uid"),
                 caffe.NCCL.new_uid):  # fmt: skip
        with pytest.raises(BackendError, match="torchrun"):
            call()


def test_random_seed_repeats_fillers() -> None:
    path = write("train.prototxt", TRAIN)
    made = []
    for _ in range(2):
        caffe.set_random_seed(5)
        made.append(np.array(caffe.Net(path, caffe.TRAIN).params["ip"][0].data))
    np.testing.assert_array_equal(made[0], made[1])


def test_weights_and_diffs_of_the_solver_prototxt(solver: caffe.PySolver) -> None:
    """The solver copies the files of ``weights``; with ``snapshot_diff`` it stores updates too."""
    solver.step(3)
    solver.snapshot()
    more = "weights: 'model_iter_3.caffemodel' snapshot_diff: true"
    again = caffe.get_solver(write("more.prototxt", f"{SOLVER}\n{more}"))
    before = np.array(solver.net.params["ip"][0].data)
    assert again.iter == 0
    np.testing.assert_array_equal(before, again.net.params["ip"][0].data)
    again.step(1)
    again.snapshot()
    net = caffe.proto.caffe_pb2.NetParameter()
    net.ParseFromString(Path("model_iter_1.caffemodel").read_bytes())
    (stored,) = [layer for layer in net.layer if layer.name == "ip"]
    diff = np.array(stored.blobs[0].diff).reshape(before.shape)
    after = np.array(again.net.params["ip"][0].data)
    np.testing.assert_allclose(diff, before - after, rtol=1e-3, atol=1e-6)
    assert np.abs(diff).max() > 0


@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_get_solver_gives_the_class_of_the_type(rule: str) -> None:
    write("train.prototxt", TRAIN)
    momentum = "" if rule in ("AdaGrad", "RMSProp") else "momentum: 0.9"
    text = SOLVER.replace("momentum: 0.9", f"{momentum} delta: 1e-4 type: '{rule}'")
    made = caffe.get_solver(write("solver.prototxt", text))
    assert type(made) is getattr(caffe, f"{rule}Solver")
