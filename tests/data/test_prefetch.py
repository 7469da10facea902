import threading
import time

import numpy as np
import pytest

from caffe_bridge.data import Prefetched, Source
from caffe_bridge.errors import DataError
from caffe_bridge.graph import Shape, parse_net

SPEC = parse_net('layer { name: "count" type: "Data" top: "x" }').layers[0]


class Counting(Source):
    """Counts up with random pauses; fails at ``bad``."""

    def __init__(self, bad: int = -1) -> None:
        super().__init__(SPEC)
        self.at, self.bad, self.made, self.closed = 0, bad, 0, False

    def shapes(self, batch: int) -> list[Shape]:
        return [(batch,)]

    def next(self, batch: int) -> list[np.ndarray]:
        time.sleep(float(self.rng.random()) / 500)
        self.made += 1
        values = np.arange(self.at, self.at + batch, dtype=np.float32)
        self.at += batch
        if self.bad in values:
            self.fail(f"item {self.bad} is bad")
        return [values]

    def rewind(self) -> None:
        self.at = 0

    def close(self) -> None:
        self.closed = True


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("prefetch-count")]


def test_order_is_kept_and_work_is_done_ahead() -> None:
    source = Counting()
    ahead = Prefetched(source, 3)
    assert ahead.shapes(2) == [(2,)] and not threads()
    got = np.concatenate([ahead.next(2)[0] for _ in range(20)])
    np.testing.assert_array_equal(got, np.arange(40))
    assert threads()
    deadline = time.monotonic() + 5
    while source.made < 23 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.02)
    assert source.made == 23
    ahead.close()
    assert source.closed and not threads()


def test_reset_and_seed_drop_what_waits() -> None:
    ahead = Prefetched(Counting(), 2)
    ahead.next(2)
    ahead.reset()
    np.testing.assert_array_equal(ahead.next(3)[0], [0, 1, 2])
    ahead.seed(4)
    np.testing.assert_array_equal(ahead.next(1)[0], [0])
    assert ahead.source.rng.bit_generator.seed_seq.entropy == 4  # type: ignore[attr-defined]
    ahead.close()


def test_errors_come_with_their_batch() -> None:
    ahead = Prefetched(Counting(bad=5), 4)
    np.testing.assert_array_equal(ahead.next(2)[0], [0, 1])
    np.testing.assert_array_equal(ahead.next(2)[0], [2, 3])
    with pytest.raises(DataError, match=r"count \(Data\) at <text>:1: item 5 is bad"):
        ahead.next(2)
    np.testing.assert_array_equal(ahead.next(2)[0], [6, 7])
    ahead.close()


def test_the_batch_size_is_fixed_until_reset() -> None:
    ahead = Prefetched(Counting(), 1)
    ahead.next(2)
    with pytest.raises(DataError, match="asked for 3 items while batches of 2 wait"):
        ahead.next(3)
    ahead.close()


def test_the_thread_ends_when_nobody_uses_the_source() -> None:
    ahead = Prefetched(Counting(), 2)
    ahead.next(1)
    assert threads()
    del ahead
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not threads()
