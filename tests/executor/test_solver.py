"""pycaffe's solvers: step, solve, snapshot, restore, callbacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import SchemaError, SolverError
from caffe_bridge.solver import Solver, read_solver
from tests.solver.tiny import write_net

TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "solver.prototxt"
    made.write_text(
        f"net: '{write_net(tmp_path)}' base_lr: 0.1 lr_policy: 'fixed' momentum: 0.9 max_iter: 6 "
        "random_seed: 5 test_iter: 1 test_interval: 100"
    )
    return made


def values(net: caffe.Net) -> list[np.ndarray]:
    return [blob.data.copy() for blobs in net.params.values() for blob in blobs]


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_trains_as_the_engine_does(path: Path, kind: str) -> None:
    momentum = "momentum: 0" if kind in ("AdaGrad", "RMSProp") else "momentum: 0.9"
    path.write_text(path.read_text().replace("momentum: 0.9", f"{momentum} type: '{kind}'"))
    mine, engine = caffe.get_solver(str(path)), Solver(read_solver(path))
    mine.step(5)
    engine.step(5)
    assert mine.iter == 5
    for got, blob in zip(values(mine.net), engine.net.learnable, strict=True):
        np.testing.assert_allclose(got, blob.value.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_nets_are_pycaffe_nets(path: Path) -> None:
    solver = caffe.get_solver(path)
    assert isinstance(solver.net, caffe.Net)
    assert [n.outputs for n in solver.test_nets] == [["loss", "size"]]
    before = solver.net.params["ip1"][0].data.copy()
    solver.step(1)
    gradient = solver.net.params["ip1"][0].diff
    np.testing.assert_allclose(solver.net.params["ip1"][0].data, before - 0.1 * gradient, rtol=1e-5)
    assert solver.net.blobs["loss"].data.shape == ()


def test_test_nets_share_weights(path: Path) -> None:
    solver = caffe.get_solver(path)
    solver.step(3)
    loss = float(solver.test_nets[0].forward()["loss"])
    assert loss == pytest.approx(float(solver.net.forward()["loss"]), rel=1e-6)
    solver.net.params["ip2"][0].data[...] = 0
    np.testing.assert_array_equal(solver.test_nets[0].params["ip2"][0].data, 0)


def test_copied_weights_are_trained(path: Path, tmp_path: Path) -> None:
    first, second = caffe.get_solver(path), caffe.get_solver(path)
    first.step(2)
    first.net.save(tmp_path / "w.caffemodel")
    second.net.copy_from(tmp_path / "w.caffemodel")
    for got, want in zip(values(second.net), values(first.net), strict=True):
        np.testing.assert_array_equal(got, want)
    test_loss = float(second.test_nets[0].forward()["loss"])
    assert test_loss == pytest.approx(float(first.test_nets[0].forward()["loss"]), rel=1e-6)


def test_solve_snapshot_restore(path: Path, tmp_path: Path) -> None:
    straight, first = caffe.get_solver(path), caffe.get_solver(path)
    straight.solve()
    assert straight.iter == 6
    first.step(4)
    first.snapshot()
    assert (tmp_path / "solver_iter_4.caffemodel").is_file()
    resumed = caffe.get_solver(path)
    resumed.solve(str(tmp_path / "solver_iter_4.solverstate"))
    assert resumed.iter == 6
    restored = caffe.get_solver(path)
    restored.restore(tmp_path / "solver_iter_6.solverstate")
    for one, two, three in zip(
        values(straight.net), values(resumed.net), values(restored.net), strict=True
    ):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def test_callbacks(path: Path) -> None:
    solver = caffe.get_solver(path)
    seen: list[str] = []
    solver.add_callback(lambda: seen.append("start"), lambda: seen.append("gradient"))
    solver.step(2)
    assert seen == ["start", "gradient"] * 2


def test_errors(path: Path) -> None:
    with pytest.raises(SchemaError, match="gone"):
        caffe.get_solver("gone.prototxt")
    path.write_text(path.read_text() + " type: 'Lion'")
    with pytest.raises(SolverError, match="Lion"):
        caffe.get_solver(path)


def test_set_mode_cpu_is_accepted(path: Path) -> None:
    caffe.set_mode_cpu()
    assert caffe.get_solver(path).iter == 0
