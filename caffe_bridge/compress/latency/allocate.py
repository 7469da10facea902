"""One option for each layer, within a budget of time, with the least error.

    minimise sum_l e_l(o_l)   subject to   sum_l t_l(o_l) <= T

Lagrangian: for a price b every layer takes the option with the least ``e + b t``; bisection finds
the least b whose choice fits the budget. That is optimal on the lower convex hull of each layer's
options; a greedy pass then spends what is left on the exchanges that lower the error most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_STEPS = 60


@dataclass(frozen=True)
class Option:
    """What a layer could become: its time in milliseconds, its error, and what it is."""

    ms: float
    error: float
    what: Any = None


Choice = dict[str, Option]


def total_ms(choice: Mapping[str, Option]) -> float:
    """The time of a choice."""
    return sum(option.ms for option in choice.values())


def total_error(choice: Mapping[str, Option]) -> float:
    """The error of a choice."""
    return sum(option.error for option in choice.values())


def _priced(options: Mapping[str, Sequence[Option]], price: float) -> Choice:
    return {
        layer: min(found, key=lambda o: (o.error + price * o.ms, o.ms))
        for layer, found in options.items()
    }


def _fill(options: Mapping[str, Sequence[Option]], choice: Choice, budget: float) -> Choice:
    """Spend the rest of the budget, the largest gain for each millisecond first."""
    made = dict(choice)
    while True:
        left = budget - total_ms(made)
        best, gain = None, 0.0
        for layer, found in options.items():
            now = made[layer]
            for option in found:
                more, less = option.ms - now.ms, now.error - option.error
                if less <= 0 or more > left:
                    continue
                worth = less / max(more, 1e-9)
                if worth > gain:
                    best, gain = (layer, option), worth
        if best is None:
            return made
        made[best[0]] = best[1]


def allocate(options: Mapping[str, Sequence[Option]], budget: float) -> tuple[Choice, bool]:
    """Choose one option for each layer.

    Args:
        options: by layer, at least one each.
        budget: milliseconds for all of them.

    Returns:
        The choice, and whether it fits the budget; where nothing does, the fastest choice.
    """
    fastest = {layer: min(found, key=lambda o: (o.ms, o.error)) for layer, found in options.items()}
    if total_ms(fastest) > budget:
        return fastest, False
    best = _priced(options, 0.0)
    if total_ms(best) <= budget:
        return _fill(options, best, budget), True
    low, high = 0.0, 1e-6
    while total_ms(_priced(options, high)) > budget and high < 1e12:
        low, high = high, high * 4.0
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if total_ms(_priced(options, middle)) > budget:
            low = middle
        else:
            high = middle
    chosen = _priced(options, high)
    return _fill(options, chosen if total_ms(chosen) <= budget else fastest, budget), True
