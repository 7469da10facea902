"""The original tool's flags, and the verbs time and device_query."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_bridge.cli.caffe_flags import normalise
from caffe_bridge.cli.runtime import Choice
from caffe_bridge.cli.train import _solver_mode, on_signals
from caffe_bridge.errors import SolverError
from caffe_bridge.schema import load_weights
from caffe_bridge.solver import Solver, read_solver
from tests.cli.nets import SOLVER, call

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("train -solver s.prototxt", "train --solver s.prototxt"),
        ("train --solver=s -gpu all", "train --solver=s --gpu all"),
        ("-solver s train -weights a,b", "train --solver s --weights a,b"),
        ("test -model m -weights w -iterations=5 -logtostderr=1", "test --model m --weights w "
         "--iterations=5"),
        ("time -model m -phase TEST -stage a,b -level 2 -v 1", "time --model m --phase TEST "
         "--stage a,b --level 2"),
        ("--debug device_query -gpu 0 -alsologtostderr", "--debug device_query --gpu 0"),
        ("train -sigint_effect none -sighup_effect=stop", "train --sigint_effect none "
         "--sighup_effect=stop"),
        ("train -h", "train -h"),
        ("convert net w -o x.onnx --level 1", "convert net w -o x.onnx --level 1"),
        ("train -solver -weights", "train --solver -weights"),
        ("", ""),
    ],
)  # fmt: skip
def test_normalise(given: str, wanted: str) -> None:
    assert normalise(given.split()) == wanted.split()


def test_train_and_test_in_one_dash_form(folder: Path, capsys: Capture) -> None:
    result = call(capsys, "train", "-solver", "solver.prototxt", "-sighup_effect", "none")
    assert result.status == 0
    assert "Optimization Done." in result.err
    result = call(capsys, "test", "-model=train.prototxt", "-weights", "snap_iter_6.caffemodel",
                  "-iterations", "3")  # fmt: skip
    assert result.status == 0
    assert "accuracy = " in result.out
    loss = re.search(r"^loss = (\S+) \(\* 1 = (\S+) loss\)$", result.out, re.MULTILINE)
    assert loss is not None and loss[1] == loss[2]
    batches = re.findall(r"\] Batch (\d), (\w+) = (\S+)$", result.err, re.MULTILINE)
    assert [(number, name) for number, name, _ in batches] == [
        (str(i), name) for i in range(3) for name in ("accuracy", "loss")
    ]
    mean = sum(float(value) for _, name, value in batches if name == "loss") / 3
    assert float(loss[1]) == pytest.approx(mean, rel=1e-4)


def test_jsonl_seed_and_runtime_flags(folder: Path, capsys: Capture) -> None:
    args = ["train", "--solver", "solver.prototxt", "--quiet", "--json", "--seed", "4",
            "--channels-last"]  # fmt: skip
    first = call(capsys, *args, "--jsonl", "log.jsonl")
    assert first.status == 0, first.err
    events = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert {e["event"] for e in events} == {"display", "test", "snapshot"}
    assert call(capsys, *args).json["loss"] == first.json["loss"]
    assert call(capsys, *args, "--amp", "bf16").json["loss"] == pytest.approx(
        first.json["loss"], rel=0.1
    )


def test_fp16_trains_with_a_scaled_loss(folder: Path, capsys: Capture) -> None:
    plain = call(capsys, "train", "--solver", "solver.prototxt", "--seed", "1", "--json", "--quiet")
    half = call(capsys, "train", "--solver", "solver.prototxt", "--seed", "1", "--json", "--quiet",
                "--amp", "fp16")  # fmt: skip
    assert half.status == 0, half.err
    assert half.json["loss"] == pytest.approx(plain.json["loss"], rel=0.05)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["-gpu", "0"], 1, "torch sees 0 CUDA devices"),
        (["-gpu", "all"], 1, "torch sees 0 CUDA devices"),
        (["-gpu", "one"], 2, "write numbers separated by commas"),
        (["-gpu", "0", "--device", "cpu"], 2, "give one of them"),
        (["--cuda-graph"], 1, "CUDA graphs need a CUDA device"),
        (["--device", "cuda"], 1, "torch sees 0 CUDA devices"),
        (["--tensorboard", "tb"], 1, "caffe-bridge[tensorboard]"),
        (["-sigint_effect", "jump"], 2, "jump"),
        (["--seed", "99999999999999999999"], 2, "'--seed'"),
    ],
)
def test_refusals(
    flags: list[str], status: int, message: str, folder: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    result = call(capsys, "train", "-solver", "solver.prototxt", *flags)
    assert (result.status, result.out) == (status, "")
    assert message in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("gpus", "seen", "devices"),
    [("0,1", None, "0,1"), ("all", None, "0,1,2,3"), ("1,3", "4,5,6,7", "5,7")],
)
def test_several_gpus_start_a_rank_each(
    gpus: str, seen: str | None, devices: str, folder: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Replaced(Exception):  # noqa: N818 - stands for the end of this process
        pass

    started: list[tuple[list[str], dict[str, str]]] = []

    def execve(_program: str, command: list[str], environment: dict[str, str]) -> None:
        started.append((command, environment))
        raise Replaced

    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("os.execve", execve)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    call(capsys, "train", "-solver", "solver.prototxt", f"-gpu={gpus}")
    ((command, environment),) = started
    count = len(devices.split(","))
    assert command[1:] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m",
        "--", "caffe_bridge", "train", "--solver", "solver.prototxt", f"--gpu={gpus}",
    ]  # fmt: skip
    assert environment["CUDA_VISIBLE_DEVICES"] == devices
    monkeypatch.setenv("WORLD_SIZE", str(count))
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    joined: list[str] = []

    def start_team(place: str, *_more: object) -> None:
        joined.append(place)
        raise Replaced

    monkeypatch.setattr("caffe_bridge.solver.distributed.start_team", start_team)
    call(capsys, *command[command.index("caffe_bridge") + 1 :])
    assert joined == ["cuda"]
    assert len(started) == 1


def test_the_first_of_several_gpus_tests_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert Choice(gpu="2,0").place() == "cuda:2"
    assert Choice(gpu="all").place() == "cuda:0"
    assert Choice(gpu="").place() == "cpu"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Choice(gpu="3").place() == "cuda:3"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Choice(gpu="3").place() == "cuda"
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(SolverError, match="WORLD_SIZE to 'two'; start the ranks with torchrun"):
        Choice(gpu="3").place()


@pytest.mark.parametrize(("size", "gpus"), [("2", "0"), ("1", "0,1")])
def test_cuda_graphs_are_for_one_process(
    size: str, gpus: str, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    result = call(capsys, "train", "-solver", "solver.prototxt", "-gpu", gpus, "--cuda-graph")
    assert (result.status, result.out) == (2, "")
    assert "--cuda-graph runs in one process" in result.err


def test_a_rank_without_a_gpu_is_refused(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3",
                        "MASTER_PORT": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    result = call(capsys, "train", "-solver", "solver.prototxt", "-gpu", "all")
    assert (result.status, result.out) == (1, "")
    assert "rank 3 of 4 is rank 3 of its host, where torch sees 2 CUDA devices" in result.err


def test_launched_ranks_train(folder: Path) -> None:
    """What -gpu 0,1 becomes, on two CPU ranks: it trains, and the status comes back."""
    code = (
        "import sys; from caffe_bridge.cli.launch import launch_ranks; "
        "launch_ranks([0, 1], ['train', '--quiet', '--log', 'log', '--solver', sys.argv[1]])"
    )
    for solver, status in (("solver.prototxt", 0), ("gone.prototxt", 1)):
        done = subprocess.run(
            [sys.executable, "-c", code, solver], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == status, done.stderr
    assert Path("snap_iter_6.solverstate").is_file()
    assert "Training with 2 ranks" in Path("log").read_text()
    assert Path("log").read_text().count("Optimization Done.") == 1


def test_solver_mode_chooses_the_device(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    Path("g.prototxt").write_text(SOLVER + "solver_mode: GPU device_id: 1\n")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert _solver_mode(read_solver("g.prototxt")) == ("cuda:1", "")
    assert _solver_mode(read_solver("solver.prototxt")) == ("cpu", "")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    result = call(capsys, "train", "-solver", "g.prototxt", "--log", "log")
    assert result.status == 0
    note = "solver_mode: GPU asks for GPU 1, torch sees 0 CUDA devices; training on the CPU"
    assert note in result.err and note in Path("log").read_text()
    assert note not in call(capsys, "train", "-solver", "g.prototxt", "--device", "cpu").err


def test_flags_without_use_are_passed_over(folder: Path, capsys: Capture) -> None:
    """Caffe's tool takes every flag with every verb."""
    result = call(capsys, "train", "-solver", "solver.prototxt", "-iterations", "3", "--phase=TEST",
                  "--quiet")  # fmt: skip
    assert result.status == 0
    assert result.err.splitlines() == [
        "warning: train makes no use of -iterations; it is passed over, as in Caffe.",
        "warning: train makes no use of -phase; it is passed over, as in Caffe.",
    ]
    assert result.out.startswith("iteration 6, ")
    result = call(capsys, "test", "-model", "train.prototxt", "-weights", "snap_iter_6.caffemodel",
                  "-phase", "TEST", "-solver=x", "-iterations", "1", "-gpu=")  # fmt: skip
    assert result.status == 0, result.err


def test_debug_info_needs_every_blob(folder: Path, capsys: Capture) -> None:
    Path("d.prototxt").write_text(SOLVER + "debug_info: true\n")
    for flags in (["--compile"], ["--amp", "fp16"]):
        result = call(capsys, "train", "-solver", "d.prototxt", *flags)
        assert result.status == 2
        assert "debug_info needs every blob" in result.err
    result = call(capsys, "train", "-solver", "d.prototxt")
    assert result.status == 0
    assert result.err.count("[Backward] Layer conv1, param blob 0 diff: ") == 3
    assert "[Forward] Layer accuracy, top blob accuracy data: " in result.err


def test_weights_of_the_solver_prototxt(folder: Path, capsys: Capture) -> None:
    text = SOLVER.replace("max_iter: 6", "max_iter: 0")
    Path("w.prototxt").write_text(text + 'weights: "net.caffemodel"\n')
    assert call(capsys, "train", "-solver", "w.prototxt").status == 0
    solver = Solver(read_solver("w.prototxt"))
    solver.net.load("snap_iter_0.caffemodel")
    trained = [b.value.detach().clone() for b in solver.net.learnable]
    solver.net.load("net.caffemodel")
    assert all((a == b.value).all() for a, b in zip(trained, solver.net.learnable, strict=True))


def test_rank_clipping(folder: Path, capsys: Capture) -> None:
    assert call(capsys, "init", "train.prototxt", "-o", "w.caffemodel").status == 0
    assert call(capsys, "decompose", "train.prototxt", "w.caffemodel", "-o", "low", "--ranks", "4",
                "--no-onnx").status == 0  # fmt: skip
    net = next(path for path in Path("low").rglob("*.prototxt"))
    Path("c.prototxt").write_text(SOLVER.replace("train.prototxt", str(net)))
    result = call(capsys, "train", "-solver", "c.prototxt", "--clip-energy", "0.5", "--json")
    assert result.status == 0, result.err
    assert re.search(r"Iteration 3, ranks clipped: conv1 4 -> [1-3]\n", result.err)
    assert Path(result.json["weights"]).is_file()
    refused = call(capsys, "train", "-solver", "solver.prototxt", "--clip-energy", "0.5")
    assert (refused.status, refused.out) == (1, "")
    assert "decompose the net first" in refused.err


def test_a_clipped_run_goes_on_with_its_own_command(folder: Path, capsys: Capture) -> None:
    assert call(capsys, "init", "train.prototxt", "-o", "w.caffemodel").status == 0
    assert call(capsys, "decompose", "train.prototxt", "w.caffemodel", "-o", "low", "--ranks", "4",
                "--no-onnx").status == 0  # fmt: skip
    net = next(path for path in Path("low").rglob("*.prototxt"))
    for name in ("whole", "parts"):
        text = SOLVER.replace("train.prototxt", str(net)).replace('"snap"', f'"{name}"')
        Path(f"{name}.prototxt").write_text(text.replace("max_iter: 6", "max_iter: 9"))
    Path("first.prototxt").write_text(text.replace("max_iter: 6", "max_iter: 5"))
    clip = ("--clip-energy", "0.5", "--quiet")
    assert call(capsys, "train", "-solver", "whole.prototxt", *clip).status == 0
    assert call(capsys, "train", "-solver", "first.prototxt", *clip).status == 0
    assert list(Path().glob("parts_[1-3]_solver.prototxt"))
    result = call(capsys, "train", "-solver", "parts.prototxt", *clip, "-snapshot", "latest")
    assert result.status == 0, result.err
    one, other = (load_weights(f"{name}_iter_9.caffemodel").blobs for name in ("whole", "parts"))
    for layer, blobs in one.items():
        for a, b in zip(blobs, other[layer], strict=True):
            assert a is not None and b is not None
            assert (a.array() == b.array()).all()


@pytest.mark.parametrize(
    ("effects", "number", "wanted"),
    [
        (("snapshot", "stop"), signal.SIGINT, (False, True)),
        (("snapshot", "stop"), signal.SIGHUP, (True, False)),
        (("none", "none"), signal.SIGINT, (False, False)),
        (("none", "none"), signal.SIGHUP, (False, False)),
    ],
)
def test_effects_of_signals(
    effects: tuple[str, str], number: int, wanted: tuple[bool, bool], folder: Path
) -> None:
    solver = Solver(read_solver("solver.prototxt"))
    undo = on_signals(solver, *effects)
    try:
        signal.raise_signal(number)
        assert (solver.stop_requested, solver.snapshot_requested) == wanted
    finally:
        undo()


def test_time_prints_what_caffe_prints(folder: Path, capsys: Capture) -> None:
    result = call(capsys, "time", "-model", "train.prototxt", "-iterations", "2")
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "Average time per layer:"
    assert any(x.strip().startswith("conv1\tbackward: ") and x.endswith(" ms.") for x in lines)
    heads = [line.split(":")[0] for line in lines[-4:]]
    assert heads == ["Average Forward pass", "Average Backward pass", "Average Forward-Backward",
                     "Total Time"]  # fmt: skip


def test_time_json_with_weights_and_other_inputs(folder: Path, capsys: Capture) -> None:
    result = call(
        capsys, "time", "--model", "net.prototxt", "--weights", "net.caffemodel", "--iterations",
        "1", "--phase", "test", "--input", "data=3,3,6,6", "--json",
    )  # fmt: skip
    assert result.status == 0, result.err
    found = result.json
    assert [row["name"] for row in found["layers"]] == ["data", "conv1", "relu1", "ip", "prob"]
    assert found["forward_ms"] > 0 and found["iterations"] == 1


def test_time_refuses_what_it_cannot_time(folder: Path, capsys: Capture) -> None:
    result = call(capsys, "time", "--model", "net.prototxt", "--compile")
    assert result.status == 2
    assert "one by one" in result.err


def test_device_query(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    result = call(capsys, "device_query")
    assert result.status == 0
    assert "No CUDA devices." in result.out
    assert call(capsys, "device_query", "--json").json["gpus"] == []
    assert call(capsys, "device_query", "-gpu", "0").status == 1
    assert call(capsys, "device_query", "-gpu", "x").status == 2
