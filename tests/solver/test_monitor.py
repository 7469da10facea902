"""When the watching thread ends a process, and when it leaves that to the main thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from caffe_bridge.solver import Solver
from caffe_bridge.solver import monitor as module
from caffe_bridge.solver.distributed import Team
from caffe_bridge.solver.monitor import Monitor


class Store:
    """The launcher's key-value store, in this process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def multi_get(self, keys: list[str]) -> list[str]:
        return [self.values[key] for key in keys]


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses with which processes would have been ended."""
    found: list[int] = []
    monkeypatch.setattr("os._exit", found.append)
    for name, seconds in (("BEAT", 0.02), ("PROMPT", 0.2), ("LAST", 3.0)):
        monkeypatch.setattr(module, name, seconds)
    return found


@pytest.fixture
def first(exits: list[int]) -> Iterator[Monitor]:
    """Rank 0's monitor at work; rank 1 has just failed."""
    store = Store()
    made, other = (Monitor(store, rank, 2, 60.0, "go on.") for rank in (0, 1))
    made.start()
    other.fail("record 400 is broken")
    other.finish()
    yield made
    made.finish()


def within(seconds: float, happened: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)
    return happened()


def test_the_main_thread_may_rescue_when_a_rank_failed(first: Monitor, exits: list[int]) -> None:
    """It hears of the failure later than the watching thread, and a snapshot takes its time."""
    assert not within(0.6, lambda: bool(exits))
    error = first.explain("connection closed")
    assert str(error) == "rank 0 of 2 stops: rank 1 failed: record 400 is broken; go on."
    with first.unhurried():
        assert not within(4.0, lambda: bool(exits))
    assert within(30.0, lambda: bool(exits))


def test_the_rescue_itself_is_left_alone(first: Monitor, exits: list[int]) -> None:
    """Rank 0's snapshot takes longer than a main thread has that only waits."""
    written: list[bool] = []
    solver = SimpleNamespace(
        param=SimpleNamespace(snapshot=1, snapshot_after_train=False), iteration=7,
        safe_iteration=0, ranks=None,
        snapshot=lambda: written.append(within(4.0, lambda: bool(exits))),
    )  # fmt: skip
    Team(0, 2, first).rescue(cast(Solver, solver))
    assert written == [False]


def test_a_main_thread_that_hears_nothing_is_ended(
    first: Monitor, exits: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert within(30.0, lambda: bool(exits))
    assert exits[0] == 1
    assert "rank 1 failed: record 400 is broken" in capfd.readouterr().err
