"""Times of small nets that run in turn, so that a ratio never mixes two loads of the machine.

The layer as it is and a few of its forms alternate in one run: whole, form, form, ..., and back.
In every round a form's time is divided by the whole layer's of the same round; the median of these
ratios is the result, and their 90 % quantile over the median says how far it can be trusted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
_SWEEP_BYTES = 64 * 2**20


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


def time_together(
    nets: Mapping[str, Callable[[], Net]],
    batch: int,
    threads: int,
    device: str = "cpu",
    *,
    cold: bool = False,
    effort: float = 1.0,
) -> dict[str, Timed]:
    """Time nets in turn, all sessions without spinning.

    Args:
        nets: what makes each net, by name; the first is what the others are compared with.
        batch: images of one run.
        threads: threads of one operator.
        device: "cpu" or "cuda".
        cold: sweep the caches before every run, as the rest of a net does with large weights.
        effort: multiplies the time that is spent.

    Raises:
        BridgeError: a net cannot be exported or run.
    """
    sweep = np.zeros(_SWEEP_BYTES // 4, np.float32) if cold else None

    def disturb() -> None:
        if sweep is not None:
            np.add(sweep, 1.0, out=sweep)

    with tempfile.TemporaryDirectory(prefix="caffe-bridge-latency-") as folder:
        sessions: dict[str, BenchSession] = {}
        for number, (name, make) in enumerate(nets.items()):
            path = Path(folder) / f"net{number}.onnx"
            sessions[name] = make_session(convert(make(), path), threads, device, batch=batch)
            path.unlink()
        once = {name: _seconds(made) for name, made in sessions.items()}
        slowest = max(once.values())
        block = 1 if cold else int(np.clip(_BLOCK_SECONDS / slowest, 1, _MOST_RUNS))
        wanted = effort * _SECONDS_EACH * len(once) / (block * sum(once.values()))
        rounds = int(np.clip(wanted, *_ROUNDS))
        timings = measure(
            sessions, rounds * block, 0.0, 1, 0.0, block, float("inf"),
            between=disturb if cold else None,
        )  # fmt: skip
    return against_first({name: timing.rounds for name, timing in timings.items()})
