"""Twenty iterations, death, resuming and twenty more equal forty in one go, to the last bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.errors import SolverError
from caffe_bridge.solver.resume import read_side, resume, side_path, snapshots
from tests.shared import REPO
from tests.solver import runs

CASES = [
    ("SGD", "lmdb"), ("SGD", "workers"), ("Nesterov", "images"), ("AdaGrad", "hdf5"),
    ("RMSProp", "ahead"), ("AdaDelta", "lmdb"), ("Adam", "images"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    runs.write_data(made)
    return made


@pytest.fixture(scope="module")
def short(folder: Path) -> Path:
    """A folder with the snapshot of 20 SGD iterations in this process."""
    made = runs.solver(folder, "SGD", "lmdb")
    made.step(20)
    runs.close(made)
    return folder


def spawn(folder: Path, kind: str, source: str, iteration: int) -> subprocess.Popen[bytes]:
    code = [sys.executable, "-m", "tests.solver.runs", folder, kind, source, iteration]
    return subprocess.Popen([str(part) for part in code], cwd=REPO)


def same(got: list[np.ndarray], want: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize(("kind", "source"), CASES)
def test_killed_and_resumed_equals_forty_iterations(kind: str, source: str, folder: Path) -> None:
    torch.set_num_threads(1)
    for path in folder.glob("snap*"):
        path.unlink()
    assert spawn(folder, kind, source, 27).wait(60) == -signal.SIGKILL
    files = {path.name for path in folder.glob("snap*")}
    assert files == {f"snap_iter_20.{e}" for e in ("caffemodel", "solverstate", "bridgestate")}
    second = runs.solver(folder, kind, source)
    assert resume(second, "latest") == str(folder / "snap_iter_20.solverstate")
    losses: list[int] = []
    second.callbacks.append(lambda engine: losses.append(len(engine.recent)))
    second.step(20)
    assert losses[0] == 7
    runs.close(second)
    straight = runs.solver(folder, kind, source)
    straight.step(40)
    runs.close(straight)
    assert second.iteration == straight.iteration == 40
    assert same(runs.weights(second), runs.weights(straight))
    assert second.loss == straight.loss and list(second.recent) == list(straight.recent)
    assert second.test_results == straight.test_results


def test_workers_change_nothing(folder: Path) -> None:
    """The same pictures, shuffled, cropped and flipped, read by a thread and by processes."""
    torch.set_num_threads(1)
    found = []
    for source in ("images", "workers"):
        made = runs.solver(folder, "SGD", source)
        made.param.snapshot = 0
        made.step(15)
        found.append((runs.weights(made), made.loss, made.test_results))
        runs.close(made)
    assert same(found[0][0], found[1][0]) and found[0][1:] == found[1][1:]


def test_caffe_resume_starts_the_data_again(short: Path) -> None:
    exact, caffe = (runs.solver(short, "SGD", "lmdb") for _ in range(2))
    resume(exact, "latest")
    resume(caffe, "latest", exact=False)
    assert same(runs.weights(exact), runs.weights(caffe))
    places = [made.net.layer("data").source.state()["at"] for made in (exact, caffe)]
    assert places == [20 * 2 * 4 % runs.COUNT, 0]
    exact.step(1)
    caffe.step(1)
    assert not same(runs.weights(exact), runs.weights(caffe))


def test_without_side_file_a_snapshot_resumes_as_in_caffe(short: Path, tmp_path: Path) -> None:
    for ending in ("caffemodel", "solverstate"):
        shutil.copy(short / f"snap_iter_20.{ending}", tmp_path / f"a_iter_20.{ending}")
    made = runs.solver(short, "SGD", "lmdb")
    resume(made, str(tmp_path / "a"))
    assert made.iteration == 20 and made.net.layer("data").source.state()["at"] == 0


def test_hdf5_snapshots_have_a_side_file_too(short: Path, tmp_path: Path) -> None:
    first = runs.solver(short, "Adam", "hdf5")
    first.param.snapshot_format = "HDF5"
    first.param.snapshot_prefix = str(tmp_path / "h")
    first.step(3)
    path = first.snapshot()
    first.step(3)
    second = runs.solver(short, "Adam", "hdf5")
    assert resume(second, str(tmp_path / "h")) == path == str(tmp_path / "h_iter_3.solverstate.h5")
    second.step(3)
    assert same(runs.weights(first), runs.weights(second))


def test_latest_passes_over_what_is_not_whole(short: Path, tmp_path: Path) -> None:
    first = runs.solver(short, "SGD", "lmdb")
    first.param.snapshot_prefix, first.param.snapshot = str(tmp_path / "snap"), 1
    first.iteration = 19
    first.step(5)
    (tmp_path / "snap_iter_24.solverstate").unlink()
    (tmp_path / "snap_iter_23.caffemodel").write_bytes(b"")
    state = tmp_path / "snap_iter_22.solverstate"
    state.write_bytes(state.read_bytes()[:-9])
    side = tmp_path / "snap_iter_21.bridgestate"
    side.write_bytes(side.read_bytes()[:100])
    made = runs.solver(short, "SGD", "lmdb")
    lines: list[str] = []
    made.log = lines.append
    prefix = str(tmp_path / "snap")
    assert [Path(path).name[10:12] for path in snapshots(prefix)] == ["23", "22", "21", "20"]
    assert resume(made, prefix).endswith("snap_iter_20.solverstate")
    assert len([line for line in lines if "Passing over" in line]) == 3


def test_files_of_two_runs_are_not_mixed(short: Path, tmp_path: Path) -> None:
    for path in short.glob("snap_iter_20.*"):
        shutil.copy(path, tmp_path / path.name)
    other = runs.solver(short, "SGD", "lmdb")
    other.net.save(tmp_path / "snap_iter_20.caffemodel")
    made = runs.solver(short, "SGD", "lmdb")
    with pytest.raises(SolverError, match=r"another weights than the files beside it; resume"):
        resume(made, str(tmp_path / "snap_iter_20.solverstate"))
    made.restore(tmp_path / "snap_iter_20.solverstate", exact=False)
    assert made.iteration == 20


def test_a_side_file_of_another_net_is_refused(short: Path) -> None:
    side = read_side(side_path(short / "snap_iter_20.solverstate"))
    assert side["iteration"] == 20 and len(side["ranks"]) == 1
    made = runs.solver(short, "SGD", "hdf5")
    with pytest.raises(SolverError, match="does not fit the nets of this solver"):
        made.restore(short / "snap_iter_20.solverstate")


def test_there_must_be_a_snapshot(short: Path, tmp_path: Path) -> None:
    made = runs.solver(short, "SGD", "lmdb")
    made.param.snapshot_prefix = str(tmp_path / "none")
    with pytest.raises(SolverError, match="can be resumed: there is no solverstate of that name"):
        resume(made, "latest")


def test_killed_at_any_instant(folder: Path, tmp_path: Path) -> None:
    """A snapshot after every iteration, killed three times; what is found is always whole."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    reached = 0
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), str(tmp_path)], cwd=REPO,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None and child.stdout.readline() == b"begin\n"
        time.sleep(0.2 + 0.3 * float(rng.random()))
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
        child.stdout.close()
        made = runs.solver(folder, "Nesterov", "lmdb")
        resume(made, str(tmp_path / "any"))
        assert made.iteration > reached
        reached = made.iteration
    straight = runs.solver(folder, "Nesterov", "lmdb")
    straight.step(reached)
    assert same(runs.weights(made), runs.weights(straight))


CHILD = """
import sys
from pathlib import Path
import torch
from caffe_bridge.solver.resume import resume, snapshots
from tests.solver import runs
torch.set_num_threads(1)
made = runs.solver(Path(sys.argv[1]), "Nesterov", "lmdb")
made.param.snapshot, made.param.snapshot_prefix = 1, sys.argv[2] + "/any"
if snapshots(made.param.snapshot_prefix):
    resume(made, "latest")
print("begin", flush=True)
made.step(100000)
"""
