"""The declarative file of an experiment, ``experiment.json`` beside a recipe.

::

    {"title": "LeNet on MNIST", "net": "train_test.prototxt", "deploy": "deploy.prototxt",
     "solvers": {"baseline": "solver.prototxt", "force": "solver_force.prototxt",
                 "finetune": "solver_finetune.prototxt"},
     "layers": ["conv1", "conv2"], "energy": 0.95, "seeds": [1, 2, 3],
     "iterations": {"baseline": 10000, "force": 10000, "finetune": 10000}, "tests": 8,
     "sweep": [{"force_type": "Constant", "force_decay": [0.001, 0.002], "keep": 0.002}],
     "tolerance": 0.0015, "bench": {"batch": 1, "threads": 1},
     "paper": [{"what": "...", "value": "...", "source": "..."}]}

Paths are relative to the file. ``keep`` is the strength that all seeds train and whose nets are
decomposed and fine-tuned; the other strengths of a sweep run with the first seed only.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from caffe_bridge.errors import SchemaError
from caffe_bridge.files import require_file
from caffe_bridge.solver.force import POWERS

PARTS = ("baseline", "force", "finetune")
FILE = "experiment.json"


@dataclass(frozen=True)
class Sweep:
    """Strengths of one kind of force; ``keep`` is the one that goes on."""

    force_type: str
    force_decay: tuple[float, ...]
    keep: float


@dataclass(frozen=True)
class Experiment:
    """What is run. See the module for the file; ``folder`` is where the recipe lies."""

    folder: str
    title: str
    net: str
    deploy: str
    solvers: dict[str, str]
    layers: tuple[str, ...]
    energy: float
    seeds: tuple[int, ...]
    iterations: dict[str, int]
    tests: int
    sweep: tuple[Sweep, ...]
    tolerance: float
    bench: dict[str, int]
    paper: tuple[dict[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """All but the folder, as JSON values."""
        return {k: v for k, v in json.loads(json.dumps(asdict(self))).items() if k != "folder"}

    def scaled(self, factor: float, seeds: int | None = None) -> Experiment:
        """The same with shorter (or longer) training, and fewer seeds.

        Raises:
            SchemaError: a factor or a count that is not positive.
        """
        if not (math.isfinite(factor) and factor > 0) or (seeds is not None and seeds < 1):
            raise SchemaError(f"scale {factor:g} and {seeds} seeds: both must be positive.")
        lengths = {part: max(1, round(n * factor)) for part, n in self.iterations.items()}
        return replace(self, iterations=lengths, seeds=self.seeds[:seeds])


def load_experiment(path: str | os.PathLike[str]) -> Experiment:
    """Read an experiment file.

    Raises:
        SchemaError: missing, no JSON, an entry that is missing, unknown or of the wrong kind.
    """
    found = require_file(path, "experiment")
    try:
        data = json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SchemaError(f"{found}: is not JSON ({error}).") from error
    names = set(Experiment.__dataclass_fields__) - {"folder"}
    if not isinstance(data, dict) or set(data) != names:
        given = set(data) if isinstance(data, dict) else set()
        raise SchemaError(
            f"{found}: missing entries: {', '.join(sorted(names - given)) or 'none'}; unknown ones:"
            f" {', '.join(sorted(given - names)) or 'none'}; see solvers/lenet/{FILE} for the form."
        )
    try:
        made = _make(found, data)
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(
            f"{found}: an entry has the wrong form ({type(error).__name__}: {error}); see "
            f"solvers/lenet/{FILE}."
        ) from error
    _check(found, made)
    return made


def _make(found: Path, data: dict[str, Any]) -> Experiment:
    sweep = tuple(
        Sweep(row["force_type"], tuple(float(x) for x in row["force_decay"]), float(row["keep"]))
        for row in data["sweep"]
    )
    return Experiment(
        folder=str(found.parent), title=str(data["title"]), net=str(data["net"]),
        deploy=str(data["deploy"]), solvers={p: str(data["solvers"][p]) for p in PARTS},
        layers=tuple(str(x) for x in data["layers"]), energy=float(data["energy"]),
        seeds=tuple(int(x) for x in data["seeds"]),
        iterations={p: int(data["iterations"][p]) for p in PARTS}, tests=int(data["tests"]),
        sweep=sweep, tolerance=float(data["tolerance"]),
        bench={k: int(data["bench"][k]) for k in ("batch", "threads")},
        paper=tuple({k: str(row[k]) for k in ("what", "value", "source")} for row in data["paper"]),
    )  # fmt: skip


def _check(found: Path, made: Experiment) -> None:
    problems = []
    for row in made.sweep:
        if row.force_type not in POWERS:
            problems.append(f"force_type '{row.force_type}' is none of {', '.join(POWERS)}")
        if row.keep not in row.force_decay:
            problems.append(f"{row.force_type} keeps {row.keep:g}, which its sweep does not hold")
    if len({row.force_type for row in made.sweep}) < len(made.sweep):
        problems.append("a force_type is swept twice")
    if not made.sweep or not made.layers or not made.seeds:
        problems.append("sweep, layers and seeds each need an entry")
    if not 0 < made.energy <= 1:
        problems.append(f"energy {made.energy:g} is not in (0, 1]")
    if min(made.iterations.values()) < 1 or made.tests < 1 or min(made.bench.values()) < 1:
        problems.append("iterations, tests, batch and threads must be 1 or more")
    if problems:
        raise SchemaError(f"{found}: {'; '.join(problems)}; correct the file.")
