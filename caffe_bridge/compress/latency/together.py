"""Times of small nets that run in turn, so that a ratio never mixes two loads of the machine.

The layer as it is and a few of its forms alternate in one run: whole, form, form, ..., and back.
In every round a form's time is divided by the whole layer's of the same round; the median of these
ratios is the result, and their 90 % quantile over the median says how far it can be trusted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from caffe_bridge.bench import BenchSession, make_session, measure
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import convert

#: 90 % quantile over median above which a measurement is unstable.
UNSTABLE = 1.25
_ROUNDS = (8, 24)
_BLOCK_SECONDS, _MOST_RUNS = 0.002, 8
_SECONDS_EACH = 0.15
_SWEEP_BYTES = 48 * 2**20


@dataclass(frozen=True)
class Timed:
    """The time of one net among others.

    Attributes:
        ms: median milliseconds of a run.
        ratio: median over rounds of its time over that of the first net; 1 for the first.
        spread: 90 % quantile over median, of the ratios; for the first net of its times.
    """

    ms: float
    ratio: float
    spread: float

    @property
    def unstable(self) -> bool:
        """Whether the machine was too restless while this was measured."""
        return self.spread > UNSTABLE


def _spread(values: np.ndarray) -> float:
    median, high = np.percentile(values, [50, 90])
    return float(high / median)


def against_first(rounds: Mapping[str, np.ndarray]) -> dict[str, Timed]:
    """Medians and ratios to the first net.

    Args:
        rounds: by name milliseconds [rounds, runs of a block], taken in turn.
    """
    names = list(rounds)
    first = np.median(rounds[names[0]], axis=1)
    made = {names[0]: Timed(float(np.median(rounds[names[0]])), 1.0, _spread(first))}
    for name in names[1:]:
        ratios = np.median(rounds[name], axis=1) / first
        median = float(np.median(rounds[name]))
        made[name] = Timed(median, float(np.median(ratios)), _spread(ratios))
    return made


def _seconds(made: BenchSession) -> float:
    times = []
    for _ in range(2):
        start = time.perf_counter()
        made.run()
        times.append(time.perf_counter() - start)
    return max(statistics.median(times), 1e-6)


def open_session(
    net: Net, batch: int, threads: int, device: str = "cpu", export_for: str = "portable"
) -> BenchSession:
    """A session of a net exported for a target, through a file that is gone afterwards.

    Raises:
        BridgeError: the net cannot be exported or run.
    """
    with tempfile.TemporaryDirectory(prefix="caffe-bridge-latency-") as folder:
        path = convert(net, Path(folder) / "net.onnx", target=export_for)
        return make_session(path, threads, device, batch=batch)


def time_together(
    sessions: Mapping[str, BenchSession],
    *,
    cold: bool = False,
    effort: float = 1.0,
    repeats: int = 2,
) -> dict[str, Timed]:
    """Time sessions in turn.

    Args:
        sessions: by name; the first is what the others are compared with.
        cold: sweep the caches before every run, as the rest of a net does with large weights.
        effort: multiplies the time that is spent.
        repeats: how often what was unstable is measured again; the least restless counts.
    """
    names = list(sessions)
    found = _rounds(sessions, cold, effort)
    for _ in range(repeats):
        again = [name for name in names if found[name].unstable]
        if not again:
            break
        some = {name: sessions[name] for name in dict.fromkeys([names[0], *again])}
        for name, timed in _rounds(some, cold, effort).items():
            if timed.spread < found[name].spread:
                found[name] = timed
    return found


def _rounds(sessions: Mapping[str, BenchSession], cold: bool, effort: float) -> dict[str, Timed]:
    sweep = np.ones(_SWEEP_BYTES // 4, np.float32) if cold else None
    once = {name: _seconds(made) for name, made in sessions.items()}
    slowest = max(once.values())
    block = 1 if cold else int(np.clip(_BLOCK_SECONDS / slowest, 1, _MOST_RUNS))
    wanted = effort * _SECONDS_EACH * len(once) / (block * sum(once.values()))
    rounds = int(np.clip(wanted, *_ROUNDS))
    timings = measure(
        sessions, rounds * block, 0.0, 1, 0.0, block, float("inf"),
        between=None if sweep is None else partial(np.sum, sweep),
    )  # fmt: skip
    return against_first({name: timing.rounds for name, timing in timings.items()})
