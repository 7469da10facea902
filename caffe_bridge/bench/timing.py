"""Timing of several models in one run, interleaved, with intervals.

Models run in blocks whose order turns round after round (A B, B A, A B, ...), so a drift of clock
or load meets all of them alike. A speed-up is the ratio of two medians of one such run; its
interval comes from a bootstrap over rounds, because runs of one block are not independent.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from caffe_bridge.errors import DataError

#: Coefficient of variation above which a measurement is called unstable.
UNSTABLE = {"cpu": 0.10, "cuda": 0.025}
_MIN_ROUNDS = 8
_BOOTSTRAP_WORK = 20_000_000


class Runner(Protocol):
    """What can be timed: a :class:`~caffe_bridge.bench.session.BenchSession` or a stand-in."""

    batch: int

    def run(self) -> None:
        """One forward pass, finished when it returns."""


@dataclass(frozen=True)
class Schedule:
    """How long to measure.

    Attributes:
        min_runs: runs of each model at least.
        min_seconds: timed seconds of each model at least.
        warmup_runs, warmup_seconds: both are reached before anything is timed.
        block: runs of one model before the next takes its turn.
        max_seconds: timed seconds of the slowest model at most; ends the measurement after a
            whole there-and-back of rounds even if ``min_runs`` is not reached.
    """

    min_runs: int = 100
    min_seconds: float = 3.0
    warmup_runs: int = 10
    warmup_seconds: float = 0.2
    block: int = 10
    max_seconds: float = 120.0


FULL = Schedule()
#: For tests and demonstrations: seconds instead of minutes, wide intervals.
QUICK = Schedule(
    min_runs=20, min_seconds=0.05, warmup_runs=2, warmup_seconds=0.0, block=5, max_seconds=5.0
)


@dataclass(frozen=True)
class Stats:
    """Statistics of the runs of one model, in milliseconds.

    ``cov`` is the coefficient of variation (standard deviation over mean); ``unstable`` says that
    it is above the limit of the device and the numbers should not be trusted.
    """

    runs: int
    median_ms: float
    mean_ms: float
    min_ms: float
    p10_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    cov: float
    images_per_s: float
    unstable: bool


@dataclass(frozen=True)
class SpeedUp:
    """Measured ratio of medians, baseline over candidate, with its 95 % interval."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Timing:
    """All times of one model: ``rounds`` is [rounds, block] milliseconds in order of time."""

    rounds: np.ndarray
    batch: int

    @property
    def samples(self) -> np.ndarray:
        """All times, flat."""
        return self.rounds.reshape(-1)

    def stats(self, device: str = "cpu") -> Stats:
        """The statistics of these times."""
        return statistics(self.samples, self.batch, device)


def statistics(samples: Sequence[float] | np.ndarray, batch: int = 1, device: str = "cpu") -> Stats:
    """Statistics of run times.

    Args:
        samples: milliseconds of each run.
        batch: images of one run.
        device: "cpu" or "cuda", for the limit of ``unstable``.

    Raises:
        DataError: no samples.
    """
    times = np.asarray(samples, np.float64).reshape(-1)
    if not times.size:
        raise DataError("no run was timed; measure at least one.")
    median, p10, p90, p95, p99 = (float(x) for x in np.percentile(times, [50, 10, 90, 95, 99]))
    mean = float(times.mean())
    cov = float(times.std(ddof=1) / mean) if times.size > 1 and mean else 0.0
    return Stats(
        runs=int(times.size), median_ms=median, mean_ms=mean, min_ms=float(times.min()),
        p10_ms=p10, p90_ms=p90, p95_ms=p95, p99_ms=p99, cov=cov,
        images_per_s=batch * 1000.0 / median if median else 0.0,
        unstable=cov > UNSTABLE.get(device, UNSTABLE["cpu"]),
    )  # fmt: skip


def speed_up(
    baseline: Timing, candidate: Timing, seed: int = 0, draws: int = 2000, level: float = 0.95
) -> SpeedUp:
    """Ratio of medians with a bootstrap percentile interval.

    Rounds are drawn with replacement, the same for both models because they were measured in
    turn; with fewer than eight rounds single runs are drawn. The number of draws falls (to 200 at
    least) when there are very many runs.

    Args:
        baseline: times of the model that counts as 1.
        candidate: times of the other model.
        seed: seed of the draws.
        draws: bootstrap samples.
        level: coverage of the interval.
    """
    ratio = float(np.median(baseline.samples) / np.median(candidate.samples))
    first, second = baseline.rounds, candidate.rounds
    if len(first) != len(second) or len(first) < _MIN_ROUNDS:
        first, second = first.reshape(-1, 1), second.reshape(-1, 1)
    paired = len(first) == len(second)
    generator = np.random.default_rng(seed)
    draws = int(np.clip(_BOOTSTRAP_WORK // (first.size + second.size), min(200, draws), draws))
    ratios = np.empty(draws)
    step = max(1, 2_000_000 // max(first.size, second.size))
    for begin in range(0, draws, step):
        count = min(step, draws - begin)
        rows = generator.integers(0, len(first), (count, len(first)))
        others = rows if paired else generator.integers(0, len(second), (count, len(second)))
        above = np.median(first[rows].reshape(count, -1), axis=1)
        below = np.median(second[others].reshape(count, -1), axis=1)
        ratios[begin : begin + count] = above / below
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(ratios, [tail, 1.0 - tail])
    return SpeedUp(ratio, float(min(low, ratio)), float(max(high, ratio)))


def _warm_up(
    runner: Runner, runs: int, seconds: float, clock: Callable[[], int]
) -> None:  # fmt: skip
    start = clock()
    done = 0
    while done < runs or (clock() - start) / 1e9 < seconds:
        runner.run()
        done += 1


def measure(
    sessions: Mapping[str, Runner],
    min_runs: int = FULL.min_runs,
    min_seconds: float = FULL.min_seconds,
    warmup_runs: int = FULL.warmup_runs,
    warmup_seconds: float = FULL.warmup_seconds,
    block: int = FULL.block,
    max_seconds: float = FULL.max_seconds,
    clock: Callable[[], int] = time.perf_counter_ns,
    between: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Time all models in turn. Arguments as in :class:`Schedule`.

    Args:
        sessions: what to time, by name; the order is that of the first round.
        min_runs: see there, as for the next five.
        min_seconds: see there.
        warmup_runs: see there.
        warmup_seconds: see there.
        block: see there.
        max_seconds: see there.
        clock: nanoseconds that only grow.
        between: called before every timed run, outside its time.

    Returns:
        The times by name, every model with the same number of rounds.

    Raises:
        DataError: nothing to measure, or fewer than one run asked for.
    """
    if not sessions or min_runs < 1 or block < 1:
        raise DataError(
            f"{len(sessions)} models with min_runs {min_runs} and block {block}: give at least one "
            "of each."
        )
    block = min(block, max(1, -(-min_runs // 2)))
    names = list(sessions)
    for name in names:
        _warm_up(sessions[name], warmup_runs, warmup_seconds, clock)
    rounds: dict[str, list[list[int]]] = {name: [] for name in names}
    spent = dict.fromkeys(names, 0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        while True:
            for turn in (names, names[::-1]):
                for name in turn:
                    times = _block(sessions[name], block, clock, between)
                    rounds[name].append(times)
                    spent[name] += sum(times)
            runs = len(rounds[names[0]]) * block
            least, most = min(spent.values()) / 1e9, max(spent.values()) / 1e9
            if (runs >= min_runs and least >= min_seconds) or most >= max_seconds:
                break
    finally:
        if collecting:
            gc.enable()
    return {
        name: Timing(np.array(rounds[name], np.float64) / 1e6, sessions[name].batch)
        for name in names
    }


def _block(
    runner: Runner, runs: int, clock: Callable[[], int], between: Callable[[], None] | None
) -> list[int]:
    times = []
    for _ in range(runs):
        if between is not None:
            between()
        start = clock()
        runner.run()
        times.append(clock() - start)
    return times
