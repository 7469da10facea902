"""Making batches ahead, in a thread, while the net computes."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from caffe_bridge.data.source import Source
from caffe_bridge.graph import Shape


def _make(source: Source, batch: int) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The next batch and the state after it."""
    return source.next(batch), source.state()


class Prefetched(Source):
    """Another source, up to ``depth`` batches ahead; same batches, same order.

    One thread does all the work in the order in which it was asked for. It starts at the first
    batch and ends with :meth:`close`, or when the source is no longer used. An error in the thread
    is raised by the :meth:`next` that would have delivered the batch.

    Args:
        source: what to make ahead.
        depth: batches that wait at most, at least 1.
    """

    slow = True

    def __init__(self, source: Source, depth: int) -> None:
        super().__init__(source.spec)
        self.source, self.depth = source, max(1, depth)
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[tuple[list[np.ndarray], dict[str, Any]]]] = deque()
        self._batch = 0
        self._reached: dict[str, Any] = {}

    def shapes(self, batch: int) -> list[Shape]:
        """As the source says."""
        return self.source.shapes(batch)

    def next(self, batch: int) -> list[np.ndarray]:
        """The next batch.

        Raises:
            DataError: from the source, or when ``batch`` changes while batches are waiting.
        """
        if self._waiting and batch != self._batch:
            self.fail(f"asked for {batch} items while batches of {self._batch} wait; reset first.")
        self._batch = batch
        if self._pool is None:
            self._reached = self.source.state()
            self._pool = ThreadPoolExecutor(1, f"prefetch-{self.spec.name}")
        while len(self._waiting) <= self.depth:
            self._waiting.append(self._pool.submit(_make, self.source, batch))
        made, self._reached = self._waiting.popleft().result()
        return made

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._waiting.clear()

    def rewind(self) -> None:
        """Drop what waits and go to the first item."""
        self._stop()
        self.source.reset()

    def seed(self, seed: int) -> None:
        """Drop what waits and start again under this seed."""
        self._stop()
        self.source.seed(seed)

    def divide(self, rank: int, ranks: int) -> None:
        """Drop what waits and let the source deliver its part."""
        self._stop()
        self.source.divide(rank, ranks)

    def state(self) -> dict[str, Any]:
        """The source's state after the last batch that was delivered."""
        return self.source.state() if self._pool is None else self._reached

    def set_state(self, state: dict[str, Any]) -> None:
        """Drop what waits and go there."""
        self._stop()
        self.source.set_state(state)

    def close(self) -> None:
        """End the thread and close the source."""
        self._stop()
        self.source.close()
