"""The declarative file of an experiment, ``experiment.json`` beside a recipe.

::

    {"title": "LeNet on MNIST", "net": "train_test.prototxt", "deploy": "deploy.prototxt",
     "solvers": {"baseline": "solver.prototxt", "force": "solver_force.prototxt",
                 "finetune": "solver_finetune.prototxt"},
     "layers": ["conv1", "conv2"], "energy": 0.95, "seeds": [1, 2, 3],
     "iterations": {"baseline": 10000, "force": 10000, "finetune": 10000}, "tests": 8,
     "schedule": {"force": {"base_lr": 0.01, "lr_policy": "multistep", "stepvalue": [6000, 9000]}},
     "sweep": [{"force_type": "Constant", "force_decay": [0.001, 0.002], "keep": 0.002},
               {"name": "Adaptive", "force_type": "Constant", "force_decay": [0.1], "keep": null,
                "solver": {"force_decay_type": "adaptive"}, "force_mult": {"conv1": 0}}],
     "goal": {"against": "baseline", "within": 0.0015, "lower": 0.3, "points": false},
     "bench": {"batch": 1, "threads": 1},
     "paper": [{"what": "...", "value": "...", "source": "..."}],
     "profiles": {"cpu": {"iterations": {"baseline": 1, "force": 1, "finetune": 1}}, "gpu": {}}}

Paths are relative to the file. ``layers`` are those whose ranks count and that are decomposed; all
convolutions when empty. ``keep`` is the strength that all seeds train and whose nets are decomposed
and fine-tuned; the other strengths of a sweep run with the first seed only, and all of them where
it is null. ``schedule`` replaces fields of a part's solver; its steps belong to the length in
``iterations``, the steps of the solver file to that file's max_iter. A negative strength pushes
filters apart (the paper's discrimination). ``solver`` of a sweep replaces fields of the force
solver, ``force_mult`` multipliers of the net's layers (0: no force there). ``goal``: a force net is
to stay ``within`` this share of accuracy of the baseline or the control, at a mean rank ratio
``lower`` by this share (``points`` false) or by this many hundredths (true). Optional, beside
``schedule``: ``channels_last`` (NHWC in memory), ``batch`` (pictures of a training batch, instead
of the recipe's), ``dense_seeds`` (how many seeds train baseline, control and force nets; the others
fine-tune, from the nets of the first), ``recalibrate`` (training batches from which decomposed nets
get new BatchNorm statistics), ``sparse`` (see :mod:`~caffe_bridge.experiment.sparse`),
``paper_ranks`` (published ranks of the layers by net, "full" first), ``paper_points`` (published
mean rank ratio and accuracy by net), and ``profiles``, whose entries replace those of the file.
``ours`` in a row of ``paper`` names our number: see
:func:`caffe_bridge.experiment.comparisons.ours`.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from caffe_bridge.errors import BridgeError, SchemaError
from caffe_bridge.files import require_file
from caffe_bridge.schema import Record, format_text, parse_text
from caffe_bridge.solver.force import POWERS

PARTS = ("baseline", "force", "finetune")
FILE = "experiment.json"
#: Nets without force, where low-rank nets may start beside the force nets.
STARTS = ("baseline", "control")
#: What the engine itself sets in a solver, and so nobody else.
_OWN = ("net", "max_iter", "random_seed", "snapshot", "snapshot_prefix", "test_interval")


@dataclass(frozen=True)
class Sweep:
    """Strengths of one kind of force; ``keep`` is the one that goes on."""

    name: str
    force_type: str
    force_decay: tuple[float, ...]
    keep: float | None
    solver: dict[str, Any] = field(default_factory=dict)
    force_mult: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    """What a force net should reach. See the module."""

    against: str
    within: float
    lower: float
    points: bool

    def words(self) -> str:
        """The goal as a clause."""
        by = f"{100 * self.lower:g} points" if self.points else f"{self.lower:.0%}"
        return (
            f"mean rank ratio lower by at least {by} within {100 * self.within:g} points of the "
            f"{self.against}"
        )


@dataclass(frozen=True)
class Experiment:
    """What is run. See the module for the file; ``folder`` is where the recipe lies."""

    folder: str
    profile: str
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
    goal: Goal
    bench: dict[str, int]
    paper: tuple[dict[str, str], ...]
    paper_ranks: dict[str, list[int]]
    paper_points: dict[str, list[float]]
    schedule: dict[str, dict[str, Any]]
    sparse: dict[str, Any]
    channels_last: bool
    batch: int
    dense_seeds: int
    recalibrate: int
    #: Lengths in the file, to which the steps of ``schedule`` belong.
    full: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """All but the folder, as JSON values."""
        return {k: v for k, v in json.loads(json.dumps(asdict(self))).items() if k != "folder"}

    @property
    def trained_seeds(self) -> tuple[int, ...]:
        """Seeds with which dense nets are trained."""
        return self.seeds[: self.dense_seeds or None]

    def origin_of(self, seed: int) -> int:
        """The seed of the dense nets that this seed's low-rank nets are made of."""
        return seed if seed in self.trained_seeds else self.seeds[0]

    def scaled(self, factor: float, seeds: int | None = None) -> Experiment:
        """The same with shorter (or longer) training, and fewer seeds.

        Raises:
            SchemaError: a factor or a count that is not positive.
        """
        if not (math.isfinite(factor) and factor > 0) or (seeds is not None and seeds < 1):
            raise SchemaError(f"scale {factor:g} and {seeds} seeds: both must be positive.")
        lengths = {part: max(1, round(n * factor)) for part, n in self.iterations.items()}
        return replace(self, iterations=lengths, seeds=self.seeds[:seeds])


_OPTIONAL: dict[str, Any] = {
    "schedule": {}, "channels_last": False, "batch": 0, "dense_seeds": 0, "recalibrate": 0,
    "sparse": {}, "paper_ranks": {}, "paper_points": {}, "profiles": {},
}  # fmt: skip
_REQUIRED = set(Experiment.__dataclass_fields__) - {"folder", "profile", "full", *_OPTIONAL}


def read_declaration(path: str | os.PathLike[str]) -> dict[str, Any]:
    """An experiment file as a JSON object.

    Raises:
        SchemaError: missing, or no JSON object.
    """
    found = require_file(path, "experiment")
    try:
        data = json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SchemaError(f"{found}: is not JSON ({error}).") from error
    if not isinstance(data, dict):
        raise SchemaError(f"{found}: is no JSON object; see solvers/lenet/{FILE} for the form.")
    return data


def load_experiment(path: str | os.PathLike[str], profile: str = "cpu") -> Experiment:
    """Read an experiment file.

    Args:
        path: the file.
        profile: whose entries of ``profiles`` are taken: "cpu" and "gpu", which every file has,
            or another one of the file.

    Raises:
        SchemaError: missing, no JSON, an entry that is missing, unknown or of the wrong kind.
    """
    data = read_declaration(path)
    found = Path(path)
    profiles = data.get("profiles", {})
    if not isinstance(profiles, dict):
        raise SchemaError(f"{found}: profiles wants an object; correct the file.")
    names = list(dict.fromkeys(["cpu", "gpu", *profiles]))
    if profile not in names:
        raise SchemaError(f"{found}: has no profile {profile}; take {' or '.join(names)}.")
    changed = profiles.get(profile, {})
    given = {*data, *changed} if isinstance(changed, dict) else set(data)
    known = _REQUIRED | set(_OPTIONAL)
    if _REQUIRED - given or given - known or not isinstance(changed, dict):
        raise SchemaError(
            f"{found}: missing entries: {', '.join(sorted(_REQUIRED - given)) or 'none'}; unknown "
            f"ones: {', '.join(sorted(given - known)) or 'none'}; see solvers/lenet/{FILE} for the "
            "form."
        )
    try:
        made = _make(found, {**_OPTIONAL, **data, **changed}, profile)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SchemaError(
            f"{found}: an entry has the wrong form ({type(error).__name__}: {error}); see "
            f"solvers/lenet/{FILE}."
        ) from error
    _check(found, made)
    return made


def _only(what: str, row: dict[str, Any], *known: str) -> None:
    unknown = row.keys() - set(known)
    if unknown:
        raise ValueError(f"{what} has the entry {min(unknown)}, which nothing reads")


def _sweep(row: dict[str, Any]) -> Sweep:
    _only("a sweep", row, *Sweep.__dataclass_fields__)
    keep = row["keep"]
    return Sweep(
        str(row.get("name", row["force_type"])), row["force_type"],
        tuple(float(x) for x in row["force_decay"]), None if keep is None else float(keep),
        dict(row.get("solver", {})),
        {str(k): float(x) for k, x in row.get("force_mult", {}).items()},
    )  # fmt: skip


def _published(row: dict[str, Any]) -> dict[str, str]:
    made = {name: str(row[name]) for name in ("what", "value", "source")}
    return {**made, "ours": str(row.get("ours", ""))}


def _sparse(row: dict[str, Any]) -> dict[str, Any]:
    if not row:
        return {}
    _only("sparse", row, "solver", "threshold")
    return {"solver": dict(row["solver"]), "threshold": float(row["threshold"])}


def _make(found: Path, data: dict[str, Any], profile: str) -> Experiment:
    goal = data["goal"]
    if not isinstance(data["layers"], list):
        raise TypeError("layers is no list of names")
    lengths = {p: int(data["iterations"][p]) for p in PARTS}
    return Experiment(
        folder=str(found.parent), profile=profile, title=str(data["title"]), net=str(data["net"]),
        deploy=str(data["deploy"]), solvers={p: str(data["solvers"][p]) for p in PARTS},
        layers=tuple(str(x) for x in data["layers"]), energy=float(data["energy"]),
        seeds=tuple(int(x) for x in data["seeds"]), iterations=lengths, tests=int(data["tests"]),
        sweep=tuple(_sweep(row) for row in data["sweep"]),
        goal=Goal(str(goal["against"]), float(goal["within"]), float(goal["lower"]),
                  bool(goal["points"])),
        bench={k: int(data["bench"][k]) for k in ("batch", "threads")},
        paper=tuple(_published(row) for row in data["paper"]),
        paper_ranks={k: [int(x) for x in v] for k, v in data["paper_ranks"].items()},
        paper_points={k: [float(x) for x in v] for k, v in data["paper_points"].items()},
        schedule={part: dict(fields) for part, fields in data["schedule"].items()},
        sparse=_sparse(data["sparse"]),
        channels_last=bool(data["channels_last"]), batch=int(data["batch"]),
        dense_seeds=int(data["dense_seeds"]), recalibrate=int(data["recalibrate"]), full=lengths,
    )  # fmt: skip


def _wrong_fields(where: str, fields: dict[str, Any]) -> list[str]:
    wrong = []
    for name, value in fields.items():
        made = Record("SolverParameter")
        if not made.has_field(name):
            wrong.append(f"{where} has the field '{name}', which no solver has")
            continue
        try:
            setattr(made, name, value)
            parse_text(format_text(made), "SolverParameter", where)
        except (BridgeError, TypeError, ValueError):
            wrong.append(f"{where} gives {name} the value {value!r}, which is of the wrong kind")
        if name in _OWN:
            wrong.append(f"{where} sets {name}, which the experiment itself decides")
    return wrong


def _check(found: Path, made: Experiment) -> None:
    problems = []
    for row in made.sweep:
        if row.force_type not in POWERS:
            problems.append(f"force_type '{row.force_type}' is none of {', '.join(POWERS)}")
        if row.name in STARTS:
            problems.append(f"a sweep cannot have the name {row.name}")
        # Nets are named by six digits of their strength.
        if len({f"{x:g}" for x in row.force_decay}) < len(row.force_decay):
            problems.append(f"{row.name} holds a strength twice")
        if not all(map(math.isfinite, row.force_decay)):
            problems.append(f"{row.name} has a strength that is not finite")
        if row.keep is not None and row.keep not in row.force_decay:
            problems.append(f"{row.name} keeps {row.keep:g}, which its sweep does not hold")
        problems += _wrong_fields(f"sweep {row.name}", row.solver)
        if not all(x >= 0 and math.isfinite(x) for x in row.force_mult.values()):
            problems.append(f"{row.name} has a force_mult that is negative or not finite")
        if not row.name.replace("-", "").isalnum():
            problems.append(f"the name '{row.name}' has other characters than letters, digits, -")
    if len({row.name for row in made.sweep}) < len(made.sweep):
        problems.append("a force_type is swept twice; give the second a name of its own")
    if not made.sweep or not made.seeds:
        problems.append("sweep and seeds each need an entry")
    for part, fields in made.schedule.items():
        if part not in PARTS:
            problems.append(f"schedule '{part}' is none of {', '.join(PARTS)}")
        problems += _wrong_fields(f"schedule {part}", fields)
    problems += _wrong_fields("sparse", made.sparse.get("solver", {}))
    if made.sparse and not made.sparse["threshold"] > 0:
        problems.append("the threshold of sparse must be positive")
    if made.sparse and all(row.keep is None for row in made.sweep):
        problems.append("sparse wants a sweep that keeps a strength")
    if len(set(made.seeds)) < len(made.seeds) or min(made.seeds, default=0) < 0:
        problems.append("seeds must differ and be 0 or more")
    if made.paper_ranks and ("full" not in made.paper_ranks or len(made.paper_ranks) < 2):
        problems.append("paper_ranks wants 'full' and at least one net")
    if made.goal.against not in STARTS:
        problems.append(f"goal is against '{made.goal.against}'; use baseline or control")
    if not 0 < made.energy <= 1:
        problems.append(f"energy {made.energy:g} is not in (0, 1]")
    if min(made.iterations.values()) < 1 or made.tests < 1 or min(made.bench.values()) < 1:
        problems.append("iterations, tests, batch and threads must be 1 or more")
    if any(len(ranks) != len(made.layers) for ranks in made.paper_ranks.values()):
        problems.append(f"paper_ranks wants {len(made.layers)} ranks of each net")
    if any(len(point) != 2 for point in made.paper_points.values()):
        problems.append("paper_points wants a mean rank ratio and an accuracy of each net")
    if min(made.recalibrate, made.batch, made.dense_seeds) < 0:
        problems.append("recalibrate, batch and dense_seeds must be 0 or more")
    if problems:
        raise SchemaError(f"{found}: {'; '.join(problems)}; correct the file.")
