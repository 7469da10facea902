"""Learning-rate policies: pure functions of the iteration (SGDSolver::GetLearningRate)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from caffe_bridge.errors import SolverError
from caffe_bridge.schema import Record

#: Policy -> rate from (solver, iteration, current step).
Policy = Callable[[Record, int, int], float]

POLICIES: dict[str, Policy] = {
    "fixed": lambda s, i, step: s.base_lr,
    "step": lambda s, i, step: s.base_lr * s.gamma**step,
    "exp": lambda s, i, step: s.base_lr * s.gamma**i,
    "inv": lambda s, i, step: s.base_lr * (1 + s.gamma * i) ** -s.power,
    "multistep": lambda s, i, step: s.base_lr * s.gamma**step,
    "poly": lambda s, i, step: s.base_lr * (1 - i / s.max_iter) ** s.power,
    "sigmoid": lambda s, i, step: s.base_lr / (1 + math.exp(-s.gamma * (i - s.stepsize))),
}


def current_step(solver: Record, iteration: int, previous: int) -> int:
    """Which step of a ``step`` or ``multistep`` policy holds at an iteration.

    ``multistep`` moves at most one step an iteration, as Caffe does.
    """
    if solver.lr_policy == "step":
        if solver.stepsize < 1:
            raise SolverError("lr_policy 'step' needs a positive stepsize.")
        return iteration // int(solver.stepsize)
    if solver.lr_policy == "multistep":
        steps = list(solver.stepvalue)
        if previous < len(steps) and iteration >= steps[previous]:
            return previous + 1
    return previous


def learning_rate(solver: Record, iteration: int, step: int = 0) -> float:
    """The learning rate of an iteration, rounded to float32.

    Args:
        solver: SolverParameter with base_lr, lr_policy and the policy's own fields.
        iteration: number of finished iterations.
        step: the current step (see :func:`current_step`), for ``step`` and ``multistep``.

    Raises:
        SolverError: unknown policy, or poly without max_iter.
    """
    if solver.lr_policy not in POLICIES:
        raise SolverError(
            f"lr_policy '{solver.lr_policy}' is not known; use one of {', '.join(POLICIES)}."
        )
    if solver.lr_policy == "poly" and solver.max_iter < 1:
        raise SolverError("lr_policy 'poly' needs a positive max_iter.")
    return float(np.float32(POLICIES[solver.lr_policy](solver, iteration, step)))
