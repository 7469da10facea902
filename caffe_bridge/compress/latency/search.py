"""The search for a choice whose whole net, not only the sum of the table, is as fast as asked for.

The table says what each form saves alone. The net saves another amount (weights in the caches,
fused or reordered neighbours), so each choice's net is measured against the original and the
budget of the next choice is scaled by saved over predicted; where ranks are so coarse that the
same choice comes again, the budget is halved between one that is too slow and one that is fast
enough, which is the next rank step. The choice that wins is then measured afresh: what selected it
is never what it is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from caffe_bridge.bench import Schedule
from caffe_bridge.compress.latency.allocate import (
    Choice,
    Option,
    allocate,
    total_error,
    total_ms,
)
from caffe_bridge.compress.latency.options import MARGIN
from caffe_bridge.compress.latency.whole import FRESH, SCHEDULE, Measured

#: The measured speed-up may be this much below the target.
TOLERANCE = 0.07
#: What the search aims at lies within this of the target, so that another run still reaches it.
_NEAR = 0.02
_GENEROUS, _TOO_FAST = 1.06, 1.1
_MEASUREMENTS = 6
_STEPS = 40
_FRESH = 3
_FINE = 0.004


def least_gain(target: float) -> float:
    """The measured speed-up from which a target counts as reached; a mere nothing never does."""
    return max(target * (1.0 - TOLERANCE), min(target, 1.0 + MARGIN))


@dataclass(frozen=True)
class Try:
    """A choice, its budget in the table, and its net's measurement."""

    choice: Choice
    budget: float
    measured: Measured


@dataclass
class Outcome:
    """What the search found.

    Attributes:
        best: the choice and its fresh measurement; None where nothing makes the net faster.
        fastest: whether the fastest form of every layer is already chosen.
    """

    best: Try | None
    fastest: bool = False


@dataclass
class Search:
    """Choices against a target.

    Args:
        options: by layer, the whole layer first.
        measure: times the net of a choice against the original.
        say: told about every try.
        over: whether the time for measuring is up; then only the last, fresh measurement is made.
    """

    options: Mapping[str, Sequence[Option]]
    measure: Callable[[Choice, Schedule], Measured]
    say: Callable[[str], None] = lambda _text: None
    over: Callable[[], bool] = lambda: False
    tries: list[Try] = field(default_factory=list)

    def run(self, before_ms: float, target: float) -> Outcome:
        """Search until a fresh measurement reaches the target, or nothing more can be done."""
        made: list[Try] = []
        goal = target
        for _ in range(_FRESH):
            found = self._approach(before_ms, goal)
            if found is None or found in made:
                break
            measured = self._fresh(found.choice)
            fresh = Try(found.choice, found.budget, measured)
            made.append(fresh)
            # From now on this choice is what the longer measurement says, in the search too.
            self.tries[self.tries.index(found)] = fresh
            self.say(
                f"fresh measurement: {measured.before_ms:.3f} -> {measured.after_ms:.3f} ms, "
                f"{measured.speed_up:.2f}x ({measured.low:.2f}-{measured.high:.2f})"
            )
            slow = measured.speed_up < target * (1.0 - _NEAR)
            if slow and self._is_fastest(found.choice):
                break
            if self.over() or (not slow and measured.speed_up <= target * _TOO_FAST):
                break
            goal += slow * _NEAR * target
        best = self._judge(made, target)
        if best is not None and len(made) > 1:
            # It was picked among several by these samples, so that others must judge it.
            best = self._judge([replace(best, measured=self._fresh(best.choice))], target)
            if best is not None:
                self.say(f"last measurement: {best.measured.speed_up:.2f}x")
        return Outcome(best, best is not None and self._is_fastest(best.choice))

    def _fresh(self, choice: Choice) -> Measured:
        """A measurement that selected nothing; of two where the first is unstable, the slower."""
        measured = self.measure(choice, FRESH)
        if not measured.unstable or self.over():
            return measured
        again = self.measure(choice, FRESH)
        return min(measured, again, key=lambda each: each.speed_up)

    def _judge(self, made: Sequence[Try], target: float) -> Try | None:
        """The one of least error that is fast enough, else the fastest of those that gain."""
        gained = [t for t in made if t.measured.speed_up >= 1.0 + MARGIN and t.measured.low > 1.0]
        enough = [t for t in gained if t.measured.speed_up >= target * (1.0 - _NEAR)]
        if enough:
            return min(enough, key=lambda t: total_error(t.choice))
        return max(gained, key=lambda t: t.measured.speed_up, default=None)

    def _is_fastest(self, choice: Choice) -> bool:
        least = sum(min(option.ms for option in found) for found in self.options.values())
        return total_ms(choice) <= least * (1.0 + 1e-9)

    def _known(self, choice: Choice) -> Try | None:
        return next((t for t in self.tries if t.choice == choice), None)

    def _approach(self, before_ms: float, goal: float) -> Try | None:
        """The choice with the least error of those measured at the goal, else the fastest."""
        whole = sum(found[0].ms for found in self.options.values())
        if not any(len(found) > 1 for found in self.options.values()):
            return None
        low, high, budget = self._start(before_ms, whole, goal)
        measurements = 0
        for _ in range(_STEPS):
            choice, fits = allocate(self.options, budget)
            found = self._known(choice)
            if all(option.what is None for option in choice.values()):
                high = min(high, budget)
            elif found is None:
                if measurements == _MEASUREMENTS or (self.tries and self.over()):
                    break
                found = self._try(choice, budget, before_ms, whole)
                measurements += 1
            if found is not None:
                gain = found.measured.speed_up
                if goal * (1.0 - _NEAR / 2) <= gain <= goal * _GENEROUS:
                    break
                if gain >= goal:
                    low = max(low, budget)
                elif fits:
                    high = min(high, budget)
                else:
                    break
            if high - low < _FINE * whole:
                break
            budget = self._next(found, whole, goal, low, high)
        return self._select(goal)

    def _start(self, before_ms: float, whole: float, goal: float) -> tuple[float, float, float]:
        """The bracket that earlier tries leave for a goal, and the first budget in it."""
        slow = [t.budget for t in self.tries if t.measured.speed_up < goal]
        fast = [t.budget for t in self.tries if t.measured.speed_up >= goal]
        high = min([whole, *slow])
        low = max([0.0, *(budget for budget in fast if budget < high)])
        if self.tries:
            nearest = min(self.tries, key=lambda t: abs(t.measured.speed_up - goal))
            return low, high, self._next(nearest, whole, goal, low, high)
        need = before_ms * (1.0 - 1.0 / goal)
        return low, high, whole - need / min(before_ms / whole, 1.0)

    def _try(self, choice: Choice, budget: float, before_ms: float, whole: float) -> Try:
        measured = self.measure(choice, SCHEDULE)
        found = Try(choice, budget, measured)
        self.tries.append(found)
        # The layers alone may take more than the net does, on a machine whose load changes.
        before = max(before_ms, whole)
        expected = before - whole + total_ms(choice)
        self.say(
            f"try {len(self.tries)}: the table predicts {before / expected:.2f}x, "
            f"measured {measured.speed_up:.2f}x"
        )
        return found

    @staticmethod
    def _next(found: Try | None, whole: float, goal: float, low: float, high: float) -> float:
        """The next budget: scaled by saved over predicted, else the middle of the bracket."""
        if found is not None:
            before = found.measured.before_ms
            predicted = whole - total_ms(found.choice)
            saved = before * (1.0 - 1.0 / found.measured.speed_up)
            scale = min(max(saved / max(predicted, 1e-9), 0.2), 2.0)
            budget = whole - before * (1.0 - 1.0 / goal) / scale
            inset = 0.1 * (high - low)
            if low + inset < budget < high - inset:
                return budget
        return (low + high) / 2.0

    def _select(self, goal: float) -> Try | None:
        enough = [t for t in self.tries if t.measured.speed_up >= goal * (1.0 - _NEAR)]
        if enough:
            return min(enough, key=lambda t: total_error(t.choice))
        return max(self.tries, key=lambda t: t.measured.speed_up, default=None)
