"""Snapshots: names, both formats, resuming, and what is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_bridge import files as files_module
from caffe_bridge.errors import BridgeError, SchemaError, SolverError, WeightError
from caffe_bridge.schema import load_weights, read_binary, write_binary
from caffe_bridge.solver import Solver, read_solver
from caffe_bridge.solver import engine as engine_module
from caffe_bridge.solver.snapshot import State, read_state, snapshot_paths, write_state
from tests.shared import GOLDEN
from tests.solver.tiny import parameters, solver, weights, write_net

TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
FORMATS = ("BINARYPROTO", "HDF5")
MULTISTEP = "lr_policy: 'multistep' gamma: 0.5 stepvalue: [2, 3, 6]"


def everything(trained: Solver) -> list[np.ndarray]:
    return weights(trained) + [h.numpy().copy() for block in trained.history for h in block]


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.name.startswith(("snap", ".", "out"))}


def test_names_of_caffe() -> None:
    assert snapshot_paths("a/b", 7, False) == ("a/b_iter_7.caffemodel", "a/b_iter_7.solverstate")
    assert snapshot_paths("b", 0, True) == ("b_iter_0.caffemodel.h5", "b_iter_0.solverstate.h5")


@pytest.mark.parametrize("form", FORMATS)
def test_state_round_trip(tmp_path: Path, form: str) -> None:
    path = tmp_path / ("s.solverstate" + (".h5" if form == "HDF5" else ""))
    history = [np.arange(6.0).reshape(2, 3), np.array([2.0**-90, -4.0]), np.ones(1)]
    write_state(path, State(12, 3, "w.caffemodel", history))
    state = read_state(path)
    assert (state.iteration, state.step, state.learned_net) == (12, 3, "w.caffemodel")
    for got, want in zip(state.history, history, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.shape == want.shape


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", TYPES)
def test_resuming_is_going_on(tmp_path: Path, kind: str, form: str) -> None:
    momentum = 0.0 if kind in ("AdaGrad", "RMSProp") else 0.9
    text = (
        f"type: '{kind}' momentum: {momentum} {MULTISTEP} weight_decay: 0.01 force_decay: 0.01 "
        f"force_iter: 6 snapshot_format: {form}"
    )
    straight, first, second = (solver(tmp_path, text) for _ in range(3))
    straight.step(9)
    first.step(4)
    state = first.snapshot()
    second.net.learnable[0].value.data.fill_(7.0)
    second.restore(state)
    assert second.iteration == 4
    assert second.step_index == first.step_index == 2
    second.step(5)
    assert second.loss == straight.loss
    for got, want in zip(everything(second), everything(straight), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("form", FORMATS)
def test_files_written(tmp_path: Path, form: str) -> None:
    trained = solver(tmp_path, f"snapshot: 2 max_iter: 5 snapshot_format: {form}")
    trained.solve()
    end = ".h5" if form == "HDF5" else ""
    kinds = (f"caffemodel{end}", f"solverstate{end}", "bridgestate")
    assert files(tmp_path) == {f"snap_iter_{i}.{kind}" for i in (2, 4, 5) for kind in kinds}
    state = read_state(tmp_path / f"snap_iter_4.solverstate{end}")
    assert (state.iteration, len(state.history)) == (4, 4)
    stored = load_weights(state.learned_net).blobs["ip1"][0]
    assert stored is not None
    assert stored.shape == (4, 3)


def test_a_snapshot_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = solver(tmp_path)

    def fail(path: str, state: State) -> None:
        raise SchemaError("disk full")

    monkeypatch.setattr(engine_module, "write_state", fail)
    with pytest.raises(SolverError, match=r"disk full.; nothing of it is left"):
        trained.snapshot()
    assert files(tmp_path) == set()


@pytest.mark.parametrize("form", FORMATS)
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path = tmp_path / ("out.solverstate" + (".h5" if form == "HDF5" else ""))
    write_state(path, State(1, 0, "w", [np.ones(2, np.float32)]))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_module, "_replace", full)
    with pytest.raises((OSError, BridgeError)):
        write_state(path, State(2, 0, "w", [np.zeros(2, np.float32)]))
    assert path.read_bytes() == before
    assert files(tmp_path) == {path.name}


def test_prefix_makes_folders(tmp_path: Path) -> None:
    param = parameters(tmp_path)
    param.snapshot_prefix = str(tmp_path / "new" / "deep" / "x")
    assert Path(Solver(param).snapshot()) == tmp_path / "new" / "deep" / "x_iter_0.solverstate"
    (tmp_path / "file").write_text("")
    param.snapshot_prefix = str(tmp_path / "file" / "x")
    with pytest.raises(BridgeError, match="file"):
        Solver(param).snapshot()


def test_an_unwritable_prefix_is_told_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    param = parameters(tmp_path, "max_iter: 3 snapshot: 2")
    param.snapshot_prefix = str(tmp_path / "file" / "x")
    trained = Solver(param)
    with pytest.raises(SolverError, match="cannot make the folder of snapshot_prefix"):
        trained.solve()
    assert trained.iteration == 0


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "Adam"])
def test_snapshot_diff_stores_the_last_update(tmp_path: Path, kind: str, form: str) -> None:
    text = f"snapshot_diff: true momentum: 0.9 type: '{kind}' snapshot_format: {form}"
    trained = solver(tmp_path, text)
    trained.step(2)
    before = weights(trained)
    trained.step(1)
    path = trained.snapshot().replace("solverstate", "caffemodel")
    if form == "HDF5":
        with h5py.File(path) as file:
            found = [np.array(file[f"diff/{b.layer}/{b.index}"]) for b in trained.net.learnable]
    else:
        layers = {layer.name: layer for layer in read_binary(path, "NetParameter").layer}
        found = [np.array(layers[b.layer].blobs[b.index].diff) for b in trained.net.learnable]
    for diff, old, new in zip(found, before, weights(trained), strict=True):
        np.testing.assert_allclose(diff.reshape(old.shape), old - new, rtol=1e-3, atol=1e-6)
    assert any(np.abs(diff).max() > 0 for diff in found)
    again = solver(tmp_path, text)
    again.restore(trained.snapshot())
    np.testing.assert_array_equal(weights(again)[0], weights(trained)[0])


def test_prefix_comes_from_the_solver_file(tmp_path: Path) -> None:
    net = write_net(tmp_path)
    path = tmp_path / "lenet_solver.prototxt"
    for line, want in (
        ("", tmp_path / "lenet_solver"),
        (f"snapshot_prefix: '{tmp_path}'", tmp_path / "lenet_solver"),
        (f"snapshot_prefix: '{tmp_path / 'x'}'", tmp_path / "x"),
        (f"snapshot_prefix: '{tmp_path}/new/'", tmp_path / "new" / "lenet_solver"),
    ):
        path.write_text(f"net: '{net}' base_lr: 0.1 lr_policy: 'fixed' {line}")
        state = Solver(read_solver(path)).snapshot()
        assert state == f"{want}_iter_0.solverstate"
        assert Path(state).is_file()


def test_missing_prefix_is_told_before_training(tmp_path: Path) -> None:
    param = parameters(tmp_path, "max_iter: 3")
    param.clear("snapshot_prefix")
    trained = Solver(param)
    with pytest.raises(SolverError, match="set it"):
        trained.solve()
    assert trained.iteration == 0
    param.snapshot_after_train = False
    Solver(param).solve()


def test_moved_snapshots_find_their_weights(tmp_path: Path) -> None:
    first = solver(tmp_path)
    first.step(2)
    first.snapshot()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in files(tmp_path):
        (tmp_path / name).rename(moved / name)
    second = solver(tmp_path)
    second.restore(moved / "snap_iter_2.solverstate")
    np.testing.assert_array_equal(weights(second)[0], weights(first)[0])


def test_a_refused_state_changes_nothing(tmp_path: Path) -> None:
    adam = solver(tmp_path, "type: 'Adam'")
    adam.step(3)
    state = adam.snapshot()
    sgd = solver(tmp_path, "momentum: 0.9")
    sgd.step(1)
    before = everything(sgd)
    with pytest.raises(SolverError, match="holds 8 history blobs, this solver has 4"):
        sgd.restore(state)

    history = [h.numpy().copy() + 1 for h in sgd.history[0]]
    wrong = tmp_path / "wrong.solverstate"
    write_state(wrong, State(3, 0, "", [*history[:3], np.zeros(5, np.float32)]))
    with pytest.raises(SolverError, match=r"history blob 3 has shape \(5,\)"):
        sgd.restore(wrong)
    write_state(wrong, State(3, 0, str(tmp_path / "gone.caffemodel"), history))
    with pytest.raises(SchemaError, match="gone"):
        sgd.restore(wrong)
    assert sgd.iteration == 1
    for got, want in zip(everything(sgd), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_history_of_old_files_has_four_axes(tmp_path: Path) -> None:
    first, second = (solver(tmp_path, "momentum: 0.9") for _ in range(2))
    first.step(3)
    state = first.snapshot()
    record = read_binary(state, "SolverState")
    for blob in record.history:
        sizes = [1] * (4 - len(blob.shape.dim)) + [int(size) for size in blob.shape.dim]
        blob.num, blob.channels, blob.height, blob.width = sizes
        blob.clear("shape")
    write_binary(record, state)
    second.restore(state)
    for got, want in zip(everything(second), everything(first), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("form", FORMATS)
def test_truncated_state_is_refused(tmp_path: Path, form: str) -> None:
    trained = solver(tmp_path, f"snapshot_format: {form}")
    path = Path(trained.snapshot())
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        with pytest.raises(BridgeError, match="snap_iter_0"):
            trained.restore(path)


def test_other_files_are_no_states(tmp_path: Path) -> None:
    trained = solver(tmp_path)
    trained.snapshot()
    with pytest.raises(BridgeError):
        trained.restore(tmp_path / "snap_iter_0.caffemodel")
    with pytest.raises(SchemaError, match=r"nowhere\.solverstate"):
        trained.restore(tmp_path / "nowhere.solverstate")


def test_weights_of_another_net(tmp_path: Path) -> None:
    trained = solver(tmp_path)
    state = trained.snapshot()
    net = Path(trained.param.net)
    net.write_text(net.read_text().replace("num_output: 4", "num_output: 5"))
    param = trained.param.copy()
    other = Solver(param)
    with pytest.raises((SolverError, WeightError)):
        other.restore(state)


CAFFE = sorted(
    f"{p.parent.name}/{p.name}" for p in (GOLDEN / "solvers").glob("*/snap_iter_8.solverstate*")
)


@pytest.mark.golden
@pytest.mark.skipif(not CAFFE, reason="needs snapshots written by a real Caffe")
@pytest.mark.parametrize("file", CAFFE or ["none"])
def test_resume_from_caffe(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = GOLDEN / "solvers" / file
    monkeypatch.chdir(GOLDEN / "solvers")
    trained = Solver(read_solver(path.parent / "solver.prototxt"))
    trained.restore(path)
    assert trained.iteration == 8
    want = np.load(path.parent / "trace.npz")
    state = read_state(path)
    for mine, stored in zip(
        [h for block in trained.history for h in block], state.history, strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), stored)
    trained.step(int(want["iters"]) - 8)
    adaptive = trained.param.type in ("AdaGrad", "RMSProp", "Adam")
    for blob in trained.net.learnable:
        expected = torch.from_numpy(want[f"resumed/{blob.layer}/{blob.index}"])
        if adaptive and (blob.layer, blob.index) in (("conv2", 1), ("bn2", 0)):
            # The bias before BatchNorm has a zero gradient: dividing by its size, these updates
            # add up the rounding of Caffe's BLAS, which the mean after it then holds.
            continue
        torch.testing.assert_close(
            blob.value.detach(), expected.reshape(blob.value.shape), rtol=2e-3, atol=1e-4
        )
