"""Making batches ahead, in a thread or in worker processes, while the net computes."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from caffe_bridge.data.source import PlannedSource, Source
from caffe_bridge.data.worker_pool import Batch, WorkerPool, usual_workers
from caffe_bridge.graph import Shape


def _make(source: Source, batch: int) -> Batch:
    """The next batch and the state after it."""
    return source.next(batch), source.state()


class OneThread:
    """One thread of this process that makes a source's batches."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._thread = ThreadPoolExecutor(1, f"prefetch-{source.spec.name}")

    def submit(self, batch: int) -> Future[Batch]:
        """Ask for one more batch."""
        return self._thread.submit(_make, self.source, batch)

    def close(self) -> None:
        """Drop what was asked for and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class Prefetched(Source):
    """Another source, some batches ahead; same batches, same order, same draws.

    The work is done by one thread, in the order in which it was asked for, or by worker processes
    (see :class:`caffe_bridge.data.worker_pool.WorkerPool`). It starts at the first batch and ends
    with :meth:`close`, or when the source is no longer used. An error is raised by the :meth:`next`
    that would have delivered the batch.

    Args:
        source: what to make ahead.
        depth: batches that wait at most, at least 1; with more workers than that, one for each.
        workers: processes; 0 for the thread, None for as many as are usual for such a source.
            Sources that have their batches in memory are always read in the thread.
    """

    slow = True

    def __init__(self, source: Source, depth: int, workers: int | None = None) -> None:
        super().__init__(source.spec)
        self.source, self.depth, self.workers = source, max(1, depth), workers
        self._pool: OneThread | WorkerPool | None = None
        self._waiting: deque[Future[Batch]] = deque()
        self._batch = self._ahead = self._owner = 0
        self._reached: dict[str, Any] = {}

    def shapes(self, batch: int) -> list[Shape]:
        """As the source says."""
        return self.source.shapes(batch)

    def _start(self, batch: int) -> OneThread | WorkerPool:
        self._reached, self._owner = self.source.state(), os.getpid()
        count = self.workers
        if count is None:
            count = usual_workers(self.source.ranks) if self.source.decodes else 0
        self._ahead = max(self.depth, count)
        if count > 0 and isinstance(self.source, PlannedSource) and self.source.plannable:
            return WorkerPool(self.source, batch, count)
        return OneThread(self.source)

    def next(self, batch: int) -> list[np.ndarray]:
        """The next batch.

        Raises:
            DataError: from the source, when ``batch`` changes while batches are waiting, when a
                worker was killed, or in a process that was forked while batches were made.
        """
        if self._waiting and batch != self._batch:
            self.fail(f"asked for {batch} items while batches of {self._batch} wait; reset first.")
        self._batch = batch
        if self._pool is None:
            self._pool = self._start(batch)
        if self._owner != os.getpid():
            self.fail("was read before this process was forked; make the net after forking.")
        while len(self._waiting) <= self._ahead:
            self._waiting.append(self._pool.submit(batch))
        made, self._reached = self._waiting.popleft().result()
        return made

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.close()
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
        """End the thread or the workers and close the source."""
        self._stop()
        self.source.close()
