"""``caffe.SGDSolver`` and its siblings: the update rule by class, whatever the file's ``type``."""

from __future__ import annotations

import os
from typing import ClassVar

from caffe_bridge.pycaffe.solver import PySolver
from caffe_bridge.schema import Record
from caffe_bridge.solver import read_solver


class _TypedSolver(PySolver):
    rule: ClassVar[str] = ""

    def _read(self, solver_file: str | os.PathLike[str]) -> Record:
        record = super()._read(solver_file)
        record.type = self.rule
        return record


class SGDSolver(_TypedSolver):
    """Stochastic gradient descent with momentum."""

    rule = "SGD"


class NesterovSolver(_TypedSolver):
    """Nesterov's accelerated gradient."""

    rule = "Nesterov"


class AdaGradSolver(_TypedSolver):
    """AdaGrad."""

    rule = "AdaGrad"


class RMSPropSolver(_TypedSolver):
    """RMSProp."""

    rule = "RMSProp"


class AdaDeltaSolver(_TypedSolver):
    """AdaDelta."""

    rule = "AdaDelta"


class AdamSolver(_TypedSolver):
    """Adam."""

    rule = "Adam"


_CLASSES: dict[str, type[_TypedSolver]] = {
    kind.rule: kind
    for kind in (
        SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver,
    )
}  # fmt: skip


def get_solver(solver_file: str | os.PathLike[str]) -> PySolver:
    """The solver of a solver prototxt, as an object of its type's class."""
    return _CLASSES.get(read_solver(solver_file).type, PySolver)(solver_file)
