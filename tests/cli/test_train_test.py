"""The verbs train and test."""

from __future__ import annotations

import inspect
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_bridge.cli.train import on_signals
from caffe_bridge.schema import load_weights
from caffe_bridge.solver import Solver, read_solver
from tests.cli.nets import BODY, LOSS, SOLVER, call

Capture = pytest.CaptureFixture[str]
LINE = re.compile(r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.cpp:\d+\] .+")


def test_train_logs_plain_lines_and_ends_with_the_result(folder: Path, capsys: Capture) -> None:
    result = call(capsys, "train", "--solver", "solver.prototxt")
    assert result.status == 0
    lines = result.err.splitlines()
    assert all(LINE.fullmatch(line) for line in lines), result.err
    assert any("Iteration 4 (" in line and "loss = " in line for line in lines)
    assert lines[-1].endswith("Optimization Done.")
    last = result.out.splitlines()
    assert len(last) == 1
    assert re.fullmatch(
        r"iteration 6, loss \S+, accuracy \S+, loss \S+: snap_iter_6\.caffemodel", last[0]
    )
    assert Path("snap_iter_6.caffemodel").is_file()
    assert Path("snap_iter_6.solverstate").is_file()


def test_train_json_and_quiet(folder: Path, capsys: Capture) -> None:
    result = call(capsys, "train", "--solver", "solver.prototxt", "--quiet", "--json")
    assert (result.status, result.err) == (0, "")
    assert result.json["iteration"] == 6
    assert result.json["weights"] == "snap_iter_6.caffemodel"
    assert set(result.json["tests"][0]) == {"loss", "accuracy"}


def test_log_file_is_appended(folder: Path, capsys: Capture) -> None:
    for _ in range(2):
        assert call(capsys, "train", "--solver", "solver.prototxt", "--quiet", "--log",
                    "train.log").status == 0  # fmt: skip
    lines = Path("train.log").read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines)
    assert sum("Optimization Done." in line for line in lines) == 2


def test_a_refused_start_makes_no_log(folder: Path, capsys: Capture) -> None:
    Path("solver.prototxt").write_text(SOLVER.replace("train.prototxt", "train_val.prototxt"))
    assert call(capsys, "train", "--solver", "solver.prototxt", "--log", "x.log").status == 1
    assert not Path("x.log").exists()


def test_weights_of_two_files(folder: Path, capsys: Capture) -> None:
    """Each file brings its layers; a layer in none of them is named in the log."""
    Path("zero.prototxt").write_text(SOLVER.replace("max_iter: 6", "max_iter: 0"))
    halves = {"a": BODY[: BODY.index("layer {", 10)], "b": BODY.replace("conv1", "other")}
    head = Path("train.prototxt").read_text().split("layer {")[1]
    for name, body in halves.items():
        Path(f"{name}.prototxt").write_text(f"layer {{{head}{body}")
        assert call(capsys, "init", f"{name}.prototxt", "-o", f"{name}.caffemodel", "--seed",
                    7).status == 0  # fmt: skip
    result = call(capsys, "train", "--solver", "zero.prototxt", "--weights",
                  "a.caffemodel,b.caffemodel")  # fmt: skip
    assert result.status == 0
    assert "No weights for" not in result.err
    solver = Solver(read_solver("zero.prototxt"))
    solver.net.load("snap_iter_0.caffemodel")
    trained = [blob.value.detach().clone() for blob in solver.net.learnable]
    solver.net.load("a.caffemodel")
    solver.net.load("b.caffemodel")
    for one, blob in zip(trained, solver.net.learnable, strict=True):
        assert np.array_equal(one, blob.value.detach())
    result = call(capsys, "train", "--solver", "zero.prototxt", "--weights", "a.caffemodel")
    assert "No weights for layer ip; its fillers stay" in result.err
    assert "No weights for layer conv1" not in result.err


def test_weights_reach_layers_that_only_test(folder: Path, capsys: Capture) -> None:
    """Caffe copies the weights into every net, and takes spaces beside the commas."""
    own = BODY.replace('"conv1"', '"only"').replace('bottom: "only"', 'bottom: "data"')
    own = own[: own.index("layer {", 10)].rstrip()[:-1] + "include { phase: TEST } }\n"
    Path("train.prototxt").write_text(Path("train.prototxt").read_text() + own)
    head = Path("train.prototxt").read_text().split("layer {")[1]
    for name, body in {"a": BODY, "b": own.replace("include { phase: TEST }", "")}.items():
        Path(f"{name}.prototxt").write_text(f"layer {{{head}{body}")
        assert call(capsys, "init", f"{name}.prototxt", "-o", f"{name}.caffemodel").status == 0
    param = read_solver("solver.prototxt")
    param.weights = ["a.caffemodel , b.caffemodel"]
    lines: list[str] = []
    solver = Solver(param, log=lines.append)
    assert not [line for line in lines if "No weights" in line]
    (blob, *_) = [b for b in solver.test_nets[0].learnable if b.layer == "only"]
    want = load_weights("b.caffemodel").blobs["only"][0]
    assert want is not None
    assert np.array_equal(blob.value.detach(), want.array())
    result = call(capsys, "train", "-solver", "solver.prototxt", "--weights", "a.caffemodel",
                  "--log", "log")  # fmt: skip
    assert result.status == 0, result.err
    assert "No weights for layer only; its fillers stay" in Path("log").read_text()


def test_resume_goes_on_where_it_stopped(folder: Path, capsys: Capture) -> None:
    Path("whole.prototxt").write_text(SOLVER.replace('"snap"', '"whole"'))
    text = Path("train.prototxt").read_text().replace('type: "gaussian" std: 1',
                                                      'type: "constant" value: 0.5')  # fmt: skip
    Path("train.prototxt").write_text(text)
    assert call(capsys, "train", "--solver", "whole.prototxt", "--quiet").status == 0
    Path("half.prototxt").write_text(SOLVER.replace("max_iter: 6", "max_iter: 3"))
    assert call(capsys, "train", "--solver", "half.prototxt", "--quiet").status == 0
    result = call(capsys, "train", "--solver", "solver.prototxt", "--snapshot",
                  "snap_iter_3.solverstate")  # fmt: skip
    assert result.status == 0
    assert "Iteration 4" in result.err
    assert "Iteration 2" not in result.err
    whole, parts = (Path(f"{n}_iter_6.caffemodel").read_bytes() for n in ("whole", "snap"))
    assert whole == parts


def test_train_from_hdf5(folder: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    with h5py.File("train.h5", "w") as file:
        file["data"] = rng.standard_normal((8, 3, 6, 6)).astype(np.float32)
        file["label"] = rng.integers(0, 5, 8).astype(np.float32)
    Path("list.txt").write_text("train.h5\n")
    Path("train.prototxt").write_text(
        'layer { name: "data" type: "HDF5Data" top: "data" top: "label" '
        'hdf5_data_param { source: "list.txt" batch_size: 4 } }\n' + BODY + LOSS
    )
    assert call(capsys, "train", "--solver", "solver.prototxt", "--quiet").status == 0
    model = ("--model", "train.prototxt", "--weights", "snap_iter_6.caffemodel")
    report = call(capsys, "test", *model, "--iterations", 2, "--json").json
    assert 0 <= report["outputs"]["accuracy"] <= 1
    assert report["loss"] == pytest.approx(report["outputs"]["loss"])
    assert report["iterations"] == 2


def test_snapshots_of_every_few_iterations_are_named(folder: Path, capsys: Capture) -> None:
    Path("solver.prototxt").write_text(SOLVER + "snapshot: 3 snapshot_after_train: false\n")
    assert call(capsys, "train", "--solver", "solver.prototxt", "--quiet").out.endswith(
        ": snap_iter_6.caffemodel\n"
    )
    assert Path("snap_iter_3.solverstate").is_file()
    Path("solver.prototxt").write_text(SOLVER + "snapshot_after_train: false\n")
    result = call(capsys, "train", "--solver", "solver.prototxt", "--quiet", "--json")
    assert result.json["weights"] is None


@pytest.mark.parametrize("more", ["snapshot: 500", "snapshot: 500 snapshot_after_train: false"])
def test_a_snapshot_that_was_not_written_is_not_named(
    more: str, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the test before the first iteration; an older run's files lie there."""
    Path("solver.prototxt").write_text(SOLVER + more + "\n")
    Path("snap_iter_0.caffemodel").write_text("old")

    def interrupted(solver: Solver, _index: int) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return {}

    monkeypatch.setattr("caffe_bridge.solver.engine.run_test", interrupted)
    train = ("train", "--solver", "solver.prototxt", "--quiet")
    result = call(capsys, *train)
    assert (result.status, result.out.split(",")[0]) == (0, "iteration 0")
    assert "caffemodel" not in result.out
    assert call(capsys, *train, "--json").json["weights"] is None
    assert not list(Path().glob("*.solverstate"))


def test_lines_are_kept_for_a_log_only(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Solver] = []
    monkeypatch.setattr("caffe_bridge.cli.train._report", lambda s, _json: found.append(s))
    assert call(capsys, "train", "--solver", "solver.prototxt").status == 0
    (solver,) = found
    assert inspect.getclosurevars(solver.log).nonlocals["sinks"] == []


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "0"])
def test_unknown_devices_are_wrong_usage(device: str, folder: Path, capsys: Capture) -> None:
    result = call(capsys, "train", "--solver", "solver.prototxt", "--device", device)
    assert result.status == 2
    assert result.err.startswith(f"error: --device {device}: write cpu, cuda or cuda:N.")


def test_an_absent_device_is_refused(folder: Path, capsys: Capture) -> None:
    result = call(capsys, "train", "--solver", "solver.prototxt", "--device", "cuda:99")
    assert result.status == 1
    assert "CUDA devices here; use cpu." in result.err


def test_signals_ask_for_stop_and_snapshot(folder: Path) -> None:
    solver = Solver(read_solver("solver.prototxt"))
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)
    undo = on_signals(solver)
    try:
        signal.raise_signal(signal.SIGHUP)
        assert solver.snapshot_requested
        assert not solver.stop_requested
        signal.raise_signal(signal.SIGINT)
        assert solver.stop_requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        undo()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)) == before


def test_ctrl_c_leaves_a_snapshot_to_resume(folder: Path, capsys: Capture) -> None:
    Path("long.prototxt").write_text(SOLVER.replace("max_iter: 6", "max_iter: 10000000"))
    train = ["-m", "caffe_bridge", "train", "--solver", "long.prototxt", "--log", "log"]
    process = subprocess.Popen(
        [sys.executable, *train], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not (Path("log").is_file() and "Iteration 20" in Path("log").read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    found = re.fullmatch(r"iteration (\d+), .*: (snap_iter_\1\.caffemodel)\n", out)
    assert found is not None
    assert Path(found[2]).is_file()
    stop = int(found[1])
    Path("on.prototxt").write_text(SOLVER.replace("max_iter: 6", f"max_iter: {stop + 2}"))
    report = call(capsys, "train", "--solver", "on.prototxt", "--quiet", "--json", "--snapshot",
                  f"snap_iter_{stop}.solverstate").json  # fmt: skip
    assert report["iteration"] == stop + 2


def test_test_prints_means(folder: Path, capsys: Capture) -> None:
    given = ("test", "--model", "train.prototxt", "--weights", "net.caffemodel")
    result = call(capsys, *given, "--iterations", 3)
    assert result.status == 0
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines] == ["Loss:", "accuracy", "loss"]
    report = call(capsys, *given, "--iterations", 3, "--json").json
    assert set(report["outputs"]) == {"accuracy", "loss"}


def test_test_names_the_elements_of_vectors(folder: Path, capsys: Capture) -> None:
    text = Path("train.prototxt").read_text()
    Path("vector.prototxt").write_text(
        text + 'layer { name: "p" type: "Reduction" bottom: "ip" top: "p" '
        "reduction_param { axis: 1 } }"
    )
    report = call(capsys, "test", "--model", "vector.prototxt", "--weights", "net.caffemodel",
                  "--iterations", 1, "--json").json  # fmt: skip
    assert {f"p[{i}]" for i in range(4)} < set(report["outputs"])
