"""What a training tells: debug_info lines, JSON lines, TensorBoard, loss scaling."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_bridge.errors import BackendError, SolverError
from caffe_bridge.net import Runtime, RuntimeNet
from caffe_bridge.solver.events import JsonLines, TensorBoard
from caffe_bridge.solver.loss_scale import LossScale
from tests.solver.tiny import solver, weights

TEST = "test_iter: 1 test_interval: 2 display: 1 snapshot: 2"


def test_events(tmp_path: Path) -> None:
    made = solver(tmp_path, TEST)
    stream = io.StringIO()
    made.listeners.append(JsonLines(stream))
    made.step(3)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(e["event"], e["iteration"]) for e in events] == [
        ("test", 0), ("display", 0), ("display", 1), ("snapshot", 2), ("test", 2), ("display", 2),
    ]  # fmt: skip
    assert events[1]["lr"] == pytest.approx(0.1)
    assert events[1]["loss"] == events[1]["outputs"]["loss"] > 0
    assert set(events[0]["outputs"]) == {"loss", "size"} and events[0]["net"] == 0
    assert events[3]["path"].endswith("snap_iter_2.solverstate")


def test_tensorboard_scalars(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "board"
    board = TensorBoard(folder)
    made = solver(tmp_path, TEST)
    made.listeners.append(board)
    made.step(3)
    board.close()
    events = accumulator.EventAccumulator(str(folder)).Reload()
    found = {tag: [e.step for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert {"train/loss", "train/lr", "test0/size", "test0/loss"} <= set(found)
    assert found["train/lr"] == [0, 1, 2]
    assert found["test0/loss"] == [0, 2]
    assert events.Scalars("train/loss")[-1].value == pytest.approx(made.loss, rel=1e-6)


def test_tensorboard_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(BackendError, match=r"caffe-bridge\[tensorboard\]"):
        TensorBoard(tmp_path)


def test_debug_info_prints_means_of_blobs_and_gradients(tmp_path: Path) -> None:
    lines: list[str] = []
    text = "debug_info: true display: 2 test_iter: 2 test_interval: 3 test_initialization: false"
    made = solver(tmp_path, text, lines.append)
    before = weights(made)
    found: dict[str, Any] = {}
    made.on_gradients.append(lambda engine: found.update(
        grad=engine.net.learnable[0].value.grad.abs().mean().item(),
        hidden=engine.net.fetch("h").abs().mean().item(),
    ))  # fmt: skip
    made.step(1)
    texts = [line.split("] ", 1)[1] for line in lines if "ward] " in line]
    values = {t.rpartition(": ")[0].strip(): t.rpartition(": ")[2] for t in texts}
    assert float(values["[Forward] Layer act, top blob h data"]) == pytest.approx(
        found["hidden"], rel=1e-4
    )
    assert float(values["[Forward] Layer ip1, param blob 0 data"]) == pytest.approx(
        np.abs(before[0]).mean(), rel=1e-4
    )
    assert float(values["[Backward] Layer ip1, param blob 0 diff"]) == pytest.approx(
        found["grad"], rel=1e-4
    )
    assert "[Backward] Layer ip2, bottom blob h diff" in values
    assert "[Backward] Layer ip2, param blob 1 diff" not in values
    assert re.fullmatch(
        r"    \[Backward\] All net params \(data, diff\): L1 norm = \(\S+, \S+\); "
        r"L2 norm = \(\S+, \S+\)", texts[-1],
    )  # fmt: skip
    lines.clear()
    made.step(1)
    assert not [line for line in lines if "ward]" in line], "Caffe prints at displays alone"
    made.step(1)
    lines.clear()
    made.step(1)
    tested = [line for line in lines if "[Forward] Layer size, top blob size data: " in line]
    assert len(tested) == 2, "each batch of the test net"
    assert not [line for line in lines if "[Backward]" in line]


def test_events_are_strict_json(tmp_path: Path) -> None:
    made = solver(tmp_path, TEST + " test_compute_loss: true")
    stream = io.StringIO()
    made.listeners.append(JsonLines(stream))
    made.test_all()
    made.tell("test", net=0, outputs={"loss": float("nan"), "size": 2.0})
    first, second = (
        json.loads(x, parse_constant=pytest.fail) for x in stream.getvalue().splitlines()
    )
    assert first["loss"] == pytest.approx(first["outputs"]["loss"])
    assert second["outputs"] == {"loss": None, "size": 2.0}


def runtime_solver(folder: Path, text: str = "", **settings: Any) -> Any:
    runtime = Runtime(**settings)
    runtime.prepare()
    return solver(folder, text, make_net=lambda spec: RuntimeNet(spec, runtime))


def test_a_scaled_loss_trains_as_an_unscaled_one(tmp_path: Path) -> None:
    """Powers of two scale without rounding: clipping, decay and force see the same gradients."""
    text = "weight_decay: 0.01 momentum: 0.9 clip_gradients: 0.5 force_decay: 0.01 iter_size: 2"
    plain, scaled = runtime_solver(tmp_path, text), runtime_solver(tmp_path, text)
    scaled.gates.append(LossScale(scaled.net, 1024.0))
    plain.step(5)
    scaled.step(5)
    assert plain.loss == scaled.loss
    for one, other in zip(weights(plain), weights(scaled), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_an_overflow_makes_no_update(tmp_path: Path) -> None:
    lines: list[str] = []
    made = runtime_solver(tmp_path, "weight_decay: 0.1 momentum: 0.9")
    made.log = lines.append
    scale = LossScale(made.net, 1e30, patience=2)
    made.gates.append(scale)
    made.step(1)
    made.on_gradients.append(
        lambda e: e.net.learnable[0].value.grad.fill_(float("inf")) if e.iteration == 1 else None
    )
    before, history = weights(made), [h.clone() for h in made.history[0]]
    made.step(1)
    assert made.iteration == 2
    assert made.net.loss_scale == pytest.approx(5e29)
    assert "no update, loss scale" in lines[-1]
    for one, other in zip(before, weights(made), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip(history, made.history[0], strict=True))
    made.step(2)
    assert made.net.loss_scale == pytest.approx(1e30)


def test_gradients_that_overflow_at_any_scale(tmp_path: Path) -> None:
    made = runtime_solver(tmp_path)
    made.gates.append(LossScale(made.net, 2.0**-9))
    made.on_gradients.append(lambda e: e.net.learnable[0].value.grad.fill_(float("nan")))
    made.step(1)
    with pytest.raises(SolverError, match="not finite even with the loss scale"):
        made.step(1)


def test_a_resumed_run_goes_on_with_its_loss_scale(tmp_path: Path) -> None:
    prefix = "snapshot_format: BINARYPROTO"
    first = runtime_solver(tmp_path, prefix)
    first.gates.append(LossScale(first.net, 1024.0, patience=4))
    first.step(6)
    state = first.snapshot()
    second = runtime_solver(tmp_path, prefix)
    second.gates.append(LossScale(second.net, 64.0, patience=4))
    second.restore(state)
    assert second.net.loss_scale == 2048.0
    assert second.gates[0].good == 2
    plain = runtime_solver(tmp_path, prefix)
    plain.restore(state)
    assert plain.net.loss_scale == 1.0
