"""Statistics, order of measurement and intervals."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_bridge.bench import Timing, measure, speed_up, statistics
from caffe_bridge.errors import DataError

TIMES = [4.0, 1.0, 3.0, 2.0, 10.0, 5.0, 7.0, 6.0, 9.0, 8.0]


def test_statistics_equal_numpy() -> None:
    found = statistics(TIMES, batch=4)
    assert (found.runs, found.median_ms, found.mean_ms, found.min_ms) == (10, 5.5, 5.5, 1.0)
    assert [found.p10_ms, found.p90_ms, found.p95_ms, found.p99_ms] == pytest.approx(
        np.percentile(TIMES, [10, 90, 95, 99])
    )
    assert found.cov == pytest.approx(np.std(TIMES, ddof=1) / 5.5)
    assert found.images_per_s == pytest.approx(4000 / 5.5)


@pytest.mark.parametrize(
    ("spread", "device", "unstable"),
    [(0.05, "cpu", False), (0.15, "cpu", True), (0.02, "cuda", False), (0.05, "cuda", True)],
)
def test_unstable_follows_the_device(spread: float, device: str, unstable: bool) -> None:
    times = np.tile([1 - spread, 1 + spread], 50)
    assert statistics(times, device=device).unstable is unstable


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="no run was timed"):
        statistics([])


class Fake:
    """A model that takes a fixed number of nanoseconds on a clock of its own."""

    def __init__(self, name: str, cost: int, log: list[str], clock: list[int]) -> None:
        self.name, self.cost, self.log, self.clock, self.batch = name, cost, log, clock, 2

    def run(self) -> None:
        self.log.append(self.name)
        self.clock[0] += self.cost


def fakes(*costs: int) -> tuple[dict[str, Fake], list[str], list[int]]:
    log: list[str] = []
    clock = [0]
    return (
        {"ABC"[i]: Fake("ABC"[i], cost, log, clock) for i, cost in enumerate(costs)},
        log,
        clock,
    )


def test_blocks_alternate_there_and_back() -> None:
    sessions, log, clock = fakes(1_000_000, 2_000_000)
    found = measure(
        sessions, min_runs=6, min_seconds=0, warmup_runs=2, warmup_seconds=0, block=3,
        clock=lambda: clock[0],
    )  # fmt: skip
    assert "".join(log) == "AABB" + "AAA" + "BBB" + "BBB" + "AAA"
    assert found["A"].rounds.tolist() == [[1.0] * 3] * 2
    assert found["B"].samples.tolist() == [2.0] * 6
    assert found["B"].batch == 2


def test_order_of_three_models_turns() -> None:
    sessions, log, clock = fakes(1, 1, 1)
    measure(sessions, 2, 0, 0, 0, 1, clock=lambda: clock[0])
    assert "".join(log) == "ABCCBA"


def test_minimum_seconds_and_warm_up_seconds_hold() -> None:
    sessions, log, clock = fakes(10_000_000, 40_000_000)
    found = measure(sessions, 2, 0.5, 1, 0.2, 5, clock=lambda: clock[0])
    assert found["A"].samples.sum() >= 500
    assert len(found["A"].samples) == len(found["B"].samples)
    assert log.index("B") == 20  # 0.2 s of warm-up at 10 ms


def test_maximum_seconds_end_the_measurement() -> None:
    sessions, _, clock = fakes(1_000_000_000)
    found = measure(sessions, 1000, 0, 0, 0, 2, max_seconds=6, clock=lambda: clock[0])
    assert found["A"].rounds.shape == (4, 2)


def test_block_shrinks_to_the_runs_asked_for() -> None:
    sessions, _, clock = fakes(1)
    found = measure(sessions, 4, 0, 0, 0, 10, clock=lambda: clock[0])
    assert found["A"].rounds.shape == (2, 2)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(DataError, match="at least one"):
        measure({})


def rounds(median: float, seed: int, count: int = 20, drift: float = 0.0) -> Timing:
    generator = np.random.default_rng(seed)
    level = 1 + drift * np.sin(np.arange(count))[:, None]
    noise = generator.gamma(2.0, 0.02, (count, 10))
    return Timing(median * level * (1 + noise), 1)


@pytest.mark.parametrize("count", [4, 20, 200])
def test_interval_contains_the_ratio_and_the_truth(count: int) -> None:
    slow, fast = rounds(6.0, 1, count), rounds(3.0, 2, count)
    gain = speed_up(slow, fast, seed=0)
    assert gain.ratio == np.median(slow.samples) / np.median(fast.samples)
    assert gain.low <= gain.ratio <= gain.high
    assert gain.low <= 2.0 <= gain.high
    assert 0 < gain.high - gain.low < 0.2


def test_interval_is_the_same_for_the_same_seed_and_shrinks_with_runs() -> None:
    few = speed_up(rounds(6, 1, 10), rounds(3, 2, 10), seed=5)
    assert few == speed_up(rounds(6, 1, 10), rounds(3, 2, 10), seed=5)
    many = speed_up(rounds(6, 1, 400), rounds(3, 2, 400), seed=5)
    assert many.high - many.low < few.high - few.low


def test_common_drift_does_not_widen_the_interval() -> None:
    paired = speed_up(rounds(6, 1, 40, drift=0.3), rounds(3, 2, 40, drift=0.3))
    shuffled = rounds(3, 2, 40, drift=0.3).rounds[np.random.default_rng(0).permutation(40)]
    alone = speed_up(rounds(6, 1, 40, drift=0.3), Timing(shuffled, 1))
    assert paired.high - paired.low < 0.7 * (alone.high - alone.low)
