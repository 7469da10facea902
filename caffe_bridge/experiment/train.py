"""Training and scoring of one net inside an experiment's folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from caffe_bridge.errors import SolverError
from caffe_bridge.experiment.recipe import POINTS
from caffe_bridge.experiment.stages import write_json
from caffe_bridge.graph import net_spec, read_net
from caffe_bridge.graph.spec import NetState
from caffe_bridge.log import stream_sink
from caffe_bridge.net import Net, Runtime, RuntimeNet
from caffe_bridge.schema import Record, parse_text, upgrade_solver, write_text
from caffe_bridge.solver import Solver
from caffe_bridge.solver.resume import resume_newest, snapshots

#: Called with (title, finished, total, loss) while a net trains.
Progress = Callable[[str, int, int, float], None]
_CURVES = "curves.json"


@dataclass(frozen=True)
class Job:
    """One training; small enough to hand to another process.

    Attributes:
        folder: where solver.prototxt, which must be there, and everything else lies.
        weights: what to start from; "" for the fillers.
        device: torch device.
        channels_last: keep images as NHWC in memory.
        place: folder to which the paths are relative.
        title: what the progress is called; the folder when "".
        passed_over: batches of the training data that are not used at the start.
    """

    folder: str
    weights: str
    device: str = "cpu"
    channels_last: bool = False
    place: str = "."
    title: str = ""
    passed_over: int = 0


def write_solver(solver: Record) -> str:
    """Write solver.prototxt into the folder of its snapshots; returns the folder."""
    folder = Path(solver.snapshot_prefix).parent
    folder.mkdir(parents=True, exist_ok=True)
    write_text(solver, folder / "solver.prototxt")
    return str(folder)


class _Curves:
    """Losses and test accuracies by iteration; kept beside the snapshots of an unfinished run."""

    def __init__(self, job: Job, text: str) -> None:
        self.path = Path(job.folder) / _CURVES
        parts = [text, job.weights, job.device, str(job.channels_last), str(job.passed_over)]
        net = str(parse_text(text, "SolverParameter", job.folder).net)
        files = [net, job.weights] if job.weights else [net]
        parts += [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]
        self.key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        self.losses: list[list[float]] = []
        self.scores: list[list[float]] = []

    def matches(self) -> bool:
        """Whether an unfinished run in the folder was the same; its curves are then taken."""
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if not isinstance(stored, dict) or stored.get("key") != self.key:
            return False
        self.losses, self.scores = stored["losses"], stored["scores"]
        return True

    def cut(self, iteration: int) -> None:
        """Forget what came after an iteration."""
        self.losses = [p for p in self.losses if p[0] <= iteration]
        self.scores = [p for p in self.scores if p[0] < iteration]

    def save(self) -> None:
        """Write them."""
        write_json(self.path, {"key": self.key, "losses": self.losses, "scores": self.scores})


def train(job: Job, progress: Progress) -> dict[str, Any]:
    """Train one net; writes train.log and the snapshot into its folder.

    A training that was cut off goes on from its last snapshot.

    Args:
        job: what to train.
        progress: told about a hundred times.

    Returns:
        ``weights`` (path), ``accuracy``, ``losses`` and ``accuracies`` as (iteration, value)
        pairs, ``iterations``, ``headline``.

    Raises:
        SolverError: the test net has no top named accuracy.
        BridgeError: solver, net or data are wrong.
    """
    folder = Path(job.folder)
    path = folder / "solver.prototxt"
    torch.set_num_threads(1)
    text = path.read_text(encoding="utf-8")
    curves = _Curves(job, text)
    again = curves.matches()
    if not again:
        _clear(folder)
    with (folder / "train.log").open("a" if again else "w", encoding="utf-8") as log:
        engine = _engine(job, upgrade_solver(parse_text(text, "SolverParameter", str(path))))
        engine.log = stream_sink(log)
        total = int(engine.param.max_iter)
        if again and snapshots(engine.param.snapshot_prefix):
            resume_newest(engine, engine.param.snapshot_prefix)
        else:
            _start(engine, job)
        curves.cut(engine.iteration)
        window: list[float] = []

        def note() -> None:
            scores = curves.scores
            if engine.test_results and (not scores or scores[-1][0] != engine.test_iteration):
                scores.append([engine.test_iteration, _accuracy(engine)])

        def follow(engine: Solver) -> None:
            window.append(engine.loss)
            if engine.iteration % max(1, total // POINTS) == 0:
                curves.losses.append([engine.iteration, sum(window) / len(window)])
                window.clear()
                progress(job.title or job.folder, engine.iteration, total, engine.loss)
            note()
            if engine.param.snapshot and engine.iteration % engine.param.snapshot == 0:
                curves.save()

        engine.callbacks.append(follow)
        engine.solve()
        if engine.test_iteration != total:
            engine.test_all()
        note()
    accuracy = _accuracy(engine)
    _tidy(folder, total)
    return {
        "weights": f"{job.folder}/net_iter_{total}.caffemodel", "accuracy": accuracy,
        "losses": curves.losses, "accuracies": curves.scores, "iterations": total,
        "headline": f"test accuracy {accuracy:.2%}",
    }  # fmt: skip


def _start(engine: Solver, job: Job) -> None:
    if job.weights:
        engine.net.load(job.weights)
    for _ in range(job.passed_over):
        cast(RuntimeNet, engine.net).read()


def _engine(job: Job, solver: Record) -> Solver:
    runtime = Runtime(job.device, channels_last=job.channels_last)
    runtime.prepare()
    return Solver(solver, make_net=lambda spec: RuntimeNet(spec, runtime), device=job.device)


def _clear(folder: Path) -> None:
    """Delete what another training left, whose snapshots must not be taken for this one's."""
    for path in (*folder.glob("net_iter_*"), folder / _CURVES):
        path.unlink(missing_ok=True)


def _tidy(folder: Path, total: int) -> None:
    """Delete what only an unfinished training needs."""
    for path in folder.glob("net_iter_*"):
        if path.name != f"net_iter_{total}.caffemodel":
            path.unlink()
    (folder / _CURVES).unlink(missing_ok=True)


def _accuracy(engine: Solver) -> float:
    found = engine.test_results[0] if engine.test_results else {}
    if "accuracy" not in found:
        raise SolverError(
            f"{engine.param.where()}: its test net has the outputs {', '.join(found) or 'none'}; "
            "an experiment needs one named accuracy."
        )
    return found["accuracy"]


def score(
    net: str | os.PathLike[str], weights: str | os.PathLike[str], batches: int, device: str = "cpu"
) -> float:
    """Mean test accuracy over the first batches of the test data."""
    torch.set_num_threads(1)
    model = Net(net_spec(read_net(net), NetState("TEST")), weights=weights)
    if device != "cpu":
        model.to(device)
    total = 0.0
    for _ in range(batches):
        model.evaluate()
        total += float(model.fetch("accuracy"))
    return total / batches
