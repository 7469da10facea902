"""Worker processes that make batches ahead, in the order in which they are asked for."""

from __future__ import annotations

import mmap
import os
import queue
import socket
import subprocess
import sys
import tempfile
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import caffe_bridge
from caffe_bridge.data.source import PlannedSource
from caffe_bridge.data.worker import Answer, take
from caffe_bridge.errors import BackendError, BridgeError, DataError

#: What a batch is: its arrays, and the source's state after it.
Batch = tuple[list[np.ndarray], dict[str, Any]]
_START = "import sys; sys.path[:] = {path!r}; from caffe_bridge.data.worker import serve; serve{to}"
#: Libraries must not start threads of their own in every worker.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"
)
#: Seconds that a worker has to end before it is killed.
_PATIENCE = 2.0
_MOST = 4


def usual_workers(ranks: int = 1) -> int:
    """Workers for pictures when nobody says how many: half the cores, at most 4.

    On fewer than four cores none: a thread decodes as fast as a process, and the net needs the
    cores. Several ranks are taken to share the machine.
    """
    if not hasattr(os, "sched_getaffinity") or not sys.executable:
        return 0
    cores = len(os.sched_getaffinity(0)) // ranks
    return min(_MOST, cores // 2) if cores >= 4 else 0


def _shared(size: int) -> int:
    """File descriptor of memory that processes can share; freed with its last user."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("caffe-bridge-data")
    else:
        with tempfile.TemporaryFile() as file:
            memory = os.dup(file.fileno())
    os.ftruncate(memory, size)
    return memory


class Worker:
    """One worker process and the memory it shares with this one.

    Args:
        source: what makes the batches; a copy of it goes to the worker.
        size: bytes of the shared memory.

    Raises:
        BackendError: this system cannot start it.
    """

    def __init__(self, source: PlannedSource, size: int) -> None:
        self.who = source.spec.label()
        size = max(mmap.PAGESIZE, size)
        ours, theirs = socket.socketpair()
        memory = _shared(size)
        self.memory = mmap.mmap(memory, size)
        package = str(Path(caffe_bridge.__file__).parents[1])
        to = (theirs.fileno(), memory, size, os.getpid())
        code = _START.format(path=[package, *sys.path], to=to)
        try:
            # A session of its own: Ctrl-C is for the parent, which ends its workers itself.
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], pass_fds=to[:2], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise BackendError(
                f"{self.who}: no data worker can be started ({error}); use 0 data workers."
            ) from error
        finally:
            theirs.close()
            os.close(memory)
        self.connection = Connection(ours.detach())
        self.source: PlannedSource | None = source

    def make(self, plan: Any) -> list[np.ndarray]:
        """The batch of a plan.

        Raises:
            BridgeError: what the source says, or the worker is gone.
        """
        try:
            if self.source is not None:
                self.connection.send(self.source)
                self.source = None
            self.connection.send(plan)
            answer: Answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise DataError(self._epitaph()) from error
        if answer.error is None:
            return take(answer.arrays, self.memory)
        if isinstance(answer.error, BridgeError):
            raise answer.error
        raise DataError(
            f"{self.who}: a batch cannot be made: {type(answer.error).__name__}: {answer.error}"
        ) from answer.error

    def _epitaph(self) -> str:
        try:
            status = self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            status = 0
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return (
            f"{self.who}: data worker process {self.process.pid} {how} before its batch was made; "
            "if memory ran out, use fewer data workers or a smaller batch, else start again."
        )

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _end(workers: list[Worker]) -> None:
    while workers:
        workers.pop().close()


def _plan(source: PlannedSource, batch: int) -> tuple[Any, dict[str, Any]]:
    """The next plan and the state after it."""
    return source.plan(batch), source.state()


class WorkerPool:
    """Up to ``count`` processes that make a source's batches.

    Batches are planned one after the other in one thread, so that order and draws are those of a
    single process; for each worker a thread waits. A worker starts with the first batch for it. All
    end with :meth:`close`, when nobody uses the pool, or with this process, however that ends.

    Args:
        source: plans the batches.
        batch: usual batch size.
        count: workers.

    Raises:
        BackendError: workers cannot run on this system.
    """

    def __init__(self, source: PlannedSource, batch: int, count: int) -> None:
        if os.name != "posix":
            raise BackendError(
                f"{source.spec.label()}: data workers need Linux or macOS; use 0 data workers."
            )
        self.source = source
        self._size = sum(4 * int(np.prod(shape)) + 64 for shape in source.shapes(batch))
        self._planner = ThreadPoolExecutor(1, f"plan-{source.spec.name}")
        self._threads = ThreadPoolExecutor(count, f"prefetch-{source.spec.name}")
        self._workers: list[Worker] = []
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(None)
        self._finish = weakref.finalize(self, _end, self._workers)

    def submit(self, batch: int) -> Future[Batch]:
        """Ask for one more batch."""
        return self._threads.submit(self._make, self._planner.submit(_plan, self.source, batch))

    def _make(self, planned: Future[tuple[Any, dict[str, Any]]]) -> Batch:
        plan, state = planned.result()
        worker = self._idle.get()
        try:
            if worker is None:
                worker = Worker(self.source, self._size)
                self._workers.append(worker)
            return worker.make(plan), state
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Drop what was asked for and end the workers."""
        self._planner.shutdown(wait=True, cancel_futures=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._finish()
