"""What a solver prototxt asks for and whether it can be run, without building its nets."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from caffe_bridge.errors import BridgeError
from caffe_bridge.schema import Record, unknown_fields
from caffe_bridge.solver.force import check_force
from caffe_bridge.solver.lr_policy import current_step, learning_rate
from caffe_bridge.solver.nets import read_solver
from caffe_bridge.solver.updates import update_rule


@dataclass(frozen=True)
class SolverReport:
    """A solver's type and policy, the net files that it names, problems and unknown fields.

    ``missing`` are those net files that do not exist, seen from the current folder.
    """

    type: str
    lr_policy: str
    max_iter: int
    nets: tuple[str, ...]
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    unknown: tuple[tuple[str, int], ...]

    @property
    def supported(self) -> bool:
        """Whether the solver can be run, given its nets."""
        return not self.problems


def _net_files(solver: Record) -> tuple[str, ...]:
    one = [getattr(solver, name) for name in ("net", "train_net") if solver.has(name)]
    return tuple(dict.fromkeys([*one, *solver.test_net]))


def _check_rate(solver: Record) -> None:
    current_step(solver, 0, 0)
    learning_rate(solver, 0)


def _problem(check: Callable[[Record], object], solver: Record) -> str:
    try:
        check(solver)
    except BridgeError as error:
        return str(error)
    return ""


def inspect_solver(path: str | os.PathLike[str]) -> SolverReport:
    """Describe a solver prototxt; what it asks for in vain is reported, not raised.

    Raises:
        BridgeError: the file cannot be read, or is no solver.
    """
    solver = read_solver(path)
    problems = []
    for check in (update_rule, check_force, _check_rate):
        problem = _problem(check, solver)
        problems += [problem] if problem else []
    nets = _net_files(solver)
    return SolverReport(
        type=str(solver.type),
        lr_policy=str(solver.lr_policy),
        max_iter=int(solver.max_iter),
        nets=nets,
        missing=tuple(name for name in nets if not Path(name).is_file()),
        problems=tuple(problems),
        unknown=tuple(unknown_fields(solver)),
    )
