"""Global budgets: one option for each layer, so that the sum of costs stays below a limit.

With options o of layer l, cost t_o and quality loss e_o, the Lagrangian relaxation

    min sum_l (e_l + beta t_l)

falls apart into one choice for each layer. Its cost falls as beta grows, so bisection on beta finds
the cheapest multiplier that keeps the budget: the solution on the lower convex hull of the options,
optimal for the cost that it has. What the budget leaves is spent greedily, by the largest gain for
each unit of cost. (Idelbayev and Carreira-Perpinan, "Low-rank compression of neural nets: learning
the rank of each layer", CVPR 2020, use the same step with a cost that is linear in the rank.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caffe_bridge.errors import PlanError

_STEPS = 100


@dataclass(frozen=True)
class Option:
    """One way to make a layer.

    ``cost`` in the unit of the budget, ``loss`` >= 0 (squared relative error), ``what`` for the
    caller.
    """

    cost: float
    loss: float
    what: Any = None


Picked = dict[str, Option]


def _relaxed(options: Mapping[str, Sequence[Option]], beta: float) -> Picked:
    return {
        name: min(choices, key=lambda o: (o.loss + beta * o.cost, o.cost))
        for name, choices in options.items()
    }


def _spent(picked: Picked) -> float:
    return sum(option.cost for option in picked.values())


def _spend_rest(options: Mapping[str, Sequence[Option]], picked: Picked, budget: float) -> Picked:
    picked = dict(picked)
    while True:
        rest = budget - _spent(picked)
        best: tuple[float, str, Option] | None = None
        for name, choices in options.items():
            now = picked[name]
            for option in choices:
                more = option.cost - now.cost
                gain = now.loss - option.loss
                if gain <= 0 or more > rest:
                    continue
                rate = gain / more if more > 0 else float("inf")
                if best is None or rate > best[0]:
                    best = (rate, name, option)
        if best is None:
            return picked
        picked[best[1]] = best[2]


def allocate(options: Mapping[str, Sequence[Option]], budget: float) -> Picked:
    """Choose one option for each layer with total cost of at most ``budget`` and little loss.

    Args:
        options: by layer; at least one each.
        budget: in the unit of the costs.

    Raises:
        PlanError: even the cheapest options cost more.
    """
    cheapest = {name: min(choices, key=lambda o: o.cost) for name, choices in options.items()}
    if _spent(cheapest) > budget:
        raise PlanError(
            f"the budget is {budget:.6g}, but the cheapest options cost {_spent(cheapest):.6g}; "
            "raise the budget, allow more methods or except fewer layers."
        )
    low, high = 0.0, 1.0
    picked = _relaxed(options, low)
    if _spent(picked) <= budget:
        return picked
    scale = max(_spent(picked), 1.0)
    picked = cheapest
    for _ in range(_STEPS):
        found = _relaxed(options, high / scale)
        if _spent(found) <= budget:
            picked = found
            break
        low, high = high, high * 4.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = _relaxed(options, middle / scale)
        if _spent(found) <= budget:
            high, picked = middle, found
        else:
            low = middle
    return _spend_rest(options, picked, budget)
