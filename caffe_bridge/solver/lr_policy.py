"""Learning-rate policies: pure functions of the iteration (SGDSolver::GetLearningRate)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caffe_bridge.errors import SolverError
from caffe_bridge.schema import Record

#: Policy -> rate from (solver, iteration, current step), in numpy so that overflow gives inf.
Policy = Callable[[Record, np.float64, np.float64], np.float64]

POLICIES: dict[str, Policy] = {
    "fixed": lambda s, i, step: np.float64(s.base_lr),
    "step": lambda s, i, step: s.base_lr * np.float64(s.gamma) ** step,
    "exp": lambda s, i, step: s.base_lr * np.float64(s.gamma) ** i,
    "inv": lambda s, i, step: s.base_lr * (1 + s.gamma * i) ** -s.power,
    "multistep": lambda s, i, step: s.base_lr * np.float64(s.gamma) ** step,
    "poly": lambda s, i, step: s.base_lr * (1 - i / s.max_iter) ** s.power,
    "sigmoid": lambda s, i, step: s.base_lr / (1 + np.exp(-s.gamma * (i - s.stepsize))),
}


def check_policy(solver: Record) -> None:
    """Refuse a policy that is unknown or lacks its field.

    Raises:
        SolverError: unknown lr_policy, ``step`` without stepsize, ``poly`` without max_iter.
    """
    if solver.lr_policy not in POLICIES:
        raise SolverError(
            f"{solver.where()}: lr_policy '{solver.lr_policy}' is not known; use one of "
            f"{', '.join(POLICIES)}."
        )
    for policy, field in (("step", "stepsize"), ("poly", "max_iter")):
        if solver.lr_policy == policy and getattr(solver, field) < 1:
            raise SolverError(
                f"{solver.where()}: lr_policy '{policy}' needs a positive {field}; set it."
            )


def current_step(solver: Record, iteration: int, previous: int) -> int:
    """Which step of a ``step`` or ``multistep`` policy holds at an iteration.

    ``multistep`` moves at most one step an iteration, as Caffe does.

    Raises:
        SolverError: ``step`` without a positive stepsize.
    """
    if solver.lr_policy == "step":
        check_policy(solver)
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
        SolverError: unknown policy, missing field, or a rate that is not finite, as ``poly`` gives
            beyond max_iter.
    """
    check_policy(solver)
    with np.errstate(all="ignore"):
        exact = POLICIES[solver.lr_policy](solver, np.float64(iteration), np.float64(step))
        rate = float(np.float32(exact))
    if not np.isfinite(rate):
        raise SolverError(
            f"{solver.where()}: lr_policy '{solver.lr_policy}' gives the learning rate {rate} at "
            f"iteration {iteration}; check its fields and max_iter {solver.max_iter}."
        )
    return rate
