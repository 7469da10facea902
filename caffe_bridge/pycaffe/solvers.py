"""``caffe.SGDSolver`` and its siblings: the update rule by class, whatever the file's ``type``."""

from __future__ import annotations

import os
from typing import ClassVar

from caffe_bridge.pycaffe.solver import PySolver
from caffe_bridge.schema import Record


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
