"""Names of an experiment's nets.

Dense nets ("runs"): ``baseline``; ``control``, trained on as long as force but without it; one for
each kind and strength of force. Low-rank nets ("variants"): ``baseline``, ``control`` and each kept
force at the same energy, and baseline and control at the ranks of each kept force net
(``baseline@Constant``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from caffe_bridge.experiment.spec import STARTS, Experiment

#: Batches by which the training data of seeds that share their weights lie apart.
PASSED_OVER = 170


@dataclass(frozen=True)
class Run:
    """A dense net that is trained on from the baseline; force_decay 0 is the control.

    ``kind`` is the name of its sweep; ``solver`` replaces fields of the force solver,
    ``force_mult`` multipliers of layers.
    """

    name: str
    kind: str
    force_decay: float
    kept: bool
    solver: dict[str, Any] = field(default_factory=dict)
    force_mult: dict[str, float] = field(default_factory=dict)


def runs_of(experiment: Experiment) -> list[Run]:
    """The control and every strength of every sweep."""
    made = [Run("control", "", 0.0, True, {"force_decay": 0.0})]
    for row in experiment.sweep:
        made += [
            Run(f"{row.name}_{x:g}", row.name, x, x == row.keep,
                {**row.solver, "force_type": row.force_type, "force_decay": x}, row.force_mult)
            for x in row.force_decay
        ]  # fmt: skip
    return made


def dense_keys(experiment: Experiment) -> list[tuple[str, int]]:
    """(run, seed) of every dense net, in the order in which they are trained."""
    keys = [("baseline", seed) for seed in experiment.trained_seeds]
    for run in runs_of(experiment):
        seeds = experiment.trained_seeds if run.kept else experiment.seeds[:1]
        keys += [(run.name, seed) for seed in seeds]
    return keys


def kept_forces(experiment: Experiment) -> list[Run]:
    """The force runs that are decomposed, at most one a sweep."""
    return [run for run in runs_of(experiment) if run.kept and run.kind]


def variants_of(experiment: Experiment) -> list[str]:
    """Names of the low-rank nets."""
    kinds = [run.kind for run in kept_forces(experiment)]
    return [*STARTS, *kinds, *(f"{start}@{kind}" for kind in kinds for start in STARTS)]


def plain(name: str) -> str:
    """A variant's name as it stands in file names."""
    return name.replace("@", "_at_")


def key_of(name: str, seed: int) -> str:
    """Name of the stage, and of the folder, of a net and a seed."""
    return f"{plain(name)}_s{seed}"


def tuned_key(name: str, seed: int) -> str:
    """Name of the stage, and of the folder, of a fine-tuned low-rank net."""
    return key_of(f"finetune_{name}", seed)
