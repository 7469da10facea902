"""The six solvers' updates, by complexity (Caffe's solvers/*.cpp).

Each takes the gradients g (decay and force included), the history and the local rates
lr_i = rate * lr_mult, and returns what is subtracted from the weights. Lists are updated by
torch's fused multi-tensor kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from caffe_bridge.errors import SolverError
from caffe_bridge.schema import Record
from caffe_bridge.solver.foreach import by_value

Tensors = list[Tensor]


@dataclass(frozen=True)
class UpdateRule:
    """One solver type: its function and how many history blobs it keeps for each weight."""

    name: str
    histories: int
    apply: Callable[[Record, Tensors, list[Tensors], Sequence[float], int], Tensors]
    momentum_allowed: bool = True


def _sgd(s: Record, g: Tensors, history: list[Tensors], rates: Sequence[float], _t: int) -> Tensors:
    """H = momentum H + lr_i g; subtract H."""
    (h,) = history
    torch._foreach_mul_(h, s.momentum)
    for rate, (gradients, targets) in by_value(rates, g, h):
        # Rounded product first: Caffe's numbers; alpha=rate would fuse multiply and add.
        torch._foreach_add_(targets, torch._foreach_mul(gradients, rate))
    return h


def _nesterov(
    s: Record, g: Tensors, history: list[Tensors], rates: Sequence[float], t: int
) -> Tensors:
    """H' = momentum H + lr_i g; subtract (1 + momentum) H' - momentum H."""
    old = torch._foreach_mul(history[0], s.momentum)
    new = torch._foreach_mul(_sgd(s, g, history, rates, t), 1 + s.momentum)
    torch._foreach_sub_(new, old)
    return list(new)


def _scaled(g: Tensors, squares: Tensors, rates: Sequence[float], delta: float) -> Tensors:
    """lr_i g / (sqrt(squares) + delta)."""
    root = torch._foreach_sqrt(squares)
    torch._foreach_add_(root, delta)
    result = torch._foreach_mul(g, list(rates))
    torch._foreach_div_(result, root)
    return list(result)


def _adagrad(
    s: Record, g: Tensors, history: list[Tensors], rates: Sequence[float], _t: int
) -> Tensors:
    """H += g^2; subtract lr_i g / (sqrt(H) + delta)."""
    torch._foreach_addcmul_(history[0], g, g)
    return _scaled(g, history[0], rates, s.delta)


def _rmsprop(
    s: Record, g: Tensors, history: list[Tensors], rates: Sequence[float], _t: int
) -> Tensors:
    """H = rms_decay H + (1 - rms_decay) g^2; subtract lr_i g / (sqrt(H) + delta)."""
    torch._foreach_mul_(history[0], s.rms_decay)
    torch._foreach_addcmul_(history[0], g, g, 1 - s.rms_decay)
    return _scaled(g, history[0], rates, s.delta)


def _adadelta(
    s: Record, g: Tensors, history: list[Tensors], rates: Sequence[float], _t: int
) -> Tensors:
    """H = m H + (1-m) g^2; u = g sqrt((H2+delta)/(H+delta)); H2 = m H2 + (1-m) u^2; lr_i u."""
    squares, updates = history
    torch._foreach_mul_(squares, s.momentum)
    torch._foreach_addcmul_(squares, g, g, 1 - s.momentum)
    ratio = torch._foreach_add(updates, s.delta)
    torch._foreach_div_(ratio, torch._foreach_add(squares, s.delta))
    torch._foreach_sqrt_(ratio)
    torch._foreach_mul_(ratio, g)
    torch._foreach_mul_(updates, s.momentum)
    torch._foreach_addcmul_(updates, ratio, ratio, 1 - s.momentum)
    return list(torch._foreach_mul(ratio, list(rates)))


def _adam(s: Record, g: Tensors, history: list[Tensors], rates: Sequence[float], t: int) -> Tensors:
    """M = b1 M + (1-b1) g; V = b2 V + (1-b2) g^2; lr_i c M / (sqrt(V) + delta).

    c = sqrt(1 - b2^t) / (1 - b1^t) with t counted from 1.
    """
    mean, square = history
    torch._foreach_mul_(mean, s.momentum)
    torch._foreach_add_(mean, g, alpha=1 - s.momentum)
    torch._foreach_mul_(square, s.momentum2)
    torch._foreach_addcmul_(square, g, g, 1 - s.momentum2)
    correction = math.sqrt(1 - s.momentum2 ** (t + 1)) / (1 - s.momentum ** (t + 1))
    return _scaled(mean, square, [rate * correction for rate in rates], s.delta)


RULES = {
    rule.name: rule
    for rule in (
        UpdateRule("SGD", 1, _sgd),
        UpdateRule("Nesterov", 1, _nesterov),
        UpdateRule("AdaGrad", 1, _adagrad, momentum_allowed=False),
        UpdateRule("RMSProp", 1, _rmsprop, momentum_allowed=False),
        UpdateRule("AdaDelta", 2, _adadelta),
        UpdateRule("Adam", 2, _adam),
    )
}


def update_rule(solver: Record) -> UpdateRule:
    """The update rule of a solver.

    Raises:
        SolverError: unknown type, momentum where Caffe refuses it, or one with which Adam's
            correction has no value.
    """
    if solver.type not in RULES:
        raise SolverError(
            f"{solver.where()}: solver type '{solver.type}' is not known; use one of "
            f"{', '.join(RULES)}."
        )
    rule = RULES[solver.type]
    if solver.momentum and not rule.momentum_allowed:
        raise SolverError(
            f"{solver.where()}: momentum {solver.momentum} cannot be used with "
            f"{solver.type}; set 0."
        )
    for field in ("momentum", "momentum2") if rule.name == "Adam" else ():
        value = getattr(solver, field)
        if not 0 <= value < 1:
            raise SolverError(
                f"{solver.where()}: Adam needs a {field} from 0 to below 1, and it is {value:g}; "
                "change it."
            )
    return rule
