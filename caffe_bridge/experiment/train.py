"""Training and scoring of one net inside an experiment's folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from caffe_bridge.errors import SolverError
from caffe_bridge.graph import net_spec, read_net
from caffe_bridge.graph.spec import NetState
from caffe_bridge.log import stream_sink
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, parse_text, upgrade_solver, write_text
from caffe_bridge.solver import Solver

#: Called with (title, finished, total, loss) while a net trains.
Progress = Callable[[str, int, int, float], None]


def train(
    title: str, folder: str, solver: Record, weights: str, progress: Progress, device: str = "cpu"
) -> dict[str, Any]:
    """Train one net; writes solver.prototxt, train.log and the snapshot into ``folder``.

    Args:
        title: what the progress is called.
        folder: where the files go; made if missing.
        solver: SolverParameter whose snapshot_prefix is ``folder/net``.
        weights: what to start from; "" for the fillers.
        progress: told about a hundred times.
        device: torch device.

    Returns:
        ``weights`` (path), ``accuracy``, ``losses`` and ``accuracies`` as (iteration, value)
        pairs, ``iterations``, ``headline``.

    Raises:
        SolverError: the test net has no top named accuracy.
        BridgeError: solver, net or data are wrong.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / "solver.prototxt"
    write_text(solver, path)
    torch.set_num_threads(1)
    losses: list[tuple[int, float]] = []
    scores: list[tuple[int, float]] = []
    with (Path(folder) / "train.log").open("w", encoding="utf-8") as log:
        text = path.read_text(encoding="utf-8")
        record = upgrade_solver(parse_text(text, "SolverParameter", str(path)))
        engine = Solver(record, device=device, log=stream_sink(log))
        if weights:
            engine.net.load(weights)
        total = int(engine.param.max_iter)
        window: list[float] = []

        def note() -> None:
            if engine.test_results and (not scores or scores[-1][0] != engine.test_iteration):
                scores.append((engine.test_iteration, _accuracy(engine)))

        def follow(engine: Solver) -> None:
            window.append(engine.loss)
            if engine.iteration % max(1, total // 100) == 0:
                losses.append((engine.iteration, sum(window) / len(window)))
                window.clear()
                progress(title, engine.iteration, total, engine.loss)
            note()

        engine.callbacks.append(follow)
        engine.solve()
        if engine.test_iteration != total:
            engine.test_all()
        note()
    accuracy = _accuracy(engine)
    return {
        "weights": f"{folder}/net_iter_{total}.caffemodel", "accuracy": accuracy,
        "losses": losses, "accuracies": scores, "iterations": total,
        "headline": f"test accuracy {accuracy:.2%}",
    }  # fmt: skip


def _accuracy(engine: Solver) -> float:
    found = engine.test_results[0] if engine.test_results else {}
    if "accuracy" not in found:
        raise SolverError(
            f"{engine.param.where()}: its test net has the outputs {', '.join(found) or 'none'}; "
            "an experiment needs one named accuracy."
        )
    return found["accuracy"]


def score(net: str | os.PathLike[str], weights: str | os.PathLike[str], batches: int) -> float:
    """Mean test accuracy over the first batches of the test data."""
    model = Net(net_spec(read_net(net), NetState("TEST")), weights=weights)
    total = 0.0
    for _ in range(batches):
        model.evaluate()
        total += float(model.fetch("accuracy"))
    return total / batches
