"""A data worker: the process that makes batches from their plans.

It is a Python of its own that imports no more than data sources need, started by
:class:`caffe_bridge.data.worker_pool.WorkerPool` as ``python -c "...serve(...)"``. So no state of
the process that starts it (threads, CUDA, open data bases) comes along, and that process's script
is not run again.

Messages, pickled: first the source; then a plan at a time, answered by :class:`Answer`. The arrays
of a batch lie in the memory that both share, one behind the other, as far as they fit.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

#: Seconds after which a worker without work looks whether its parent still lives.
_LOOK = 2.0


@dataclass(frozen=True)
class Shared:
    """An array in the shared memory: where it begins, its type and shape."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """The arrays of a batch, or why there are none."""

    arrays: list[Shared | np.ndarray]
    error: Exception | None = None


def put(arrays: list[np.ndarray], memory: mmap.mmap) -> list[Shared | np.ndarray]:
    """Copy arrays into the memory; those that do not fit stay what they are."""
    placed: list[Shared | np.ndarray] = []
    offset = 0
    for array in arrays:
        if array.nbytes == 0 or offset + array.nbytes > len(memory):
            placed.append(array)
            continue
        view = np.frombuffer(memory, array.dtype, array.size, offset)
        view.reshape(array.shape)[...] = array
        placed.append(Shared(offset, array.dtype.str, array.shape))
        offset += -(-array.nbytes // 64) * 64
    return placed


def take(arrays: list[Shared | np.ndarray], memory: mmap.mmap) -> list[np.ndarray]:
    """Copies of what :func:`put` placed."""
    taken = []
    for array in arrays:
        if isinstance(array, Shared):
            count = int(np.prod(array.shape))
            view = np.frombuffer(memory, np.dtype(array.dtype), count, array.offset)
            array = view.reshape(array.shape).copy()
        taken.append(array)
    return taken


def _answer(connection: Connection, source: Any, memory: mmap.mmap) -> None:
    plan = connection.recv()
    try:
        answer = Answer(put(source.make(plan), memory))
    except Exception as error:
        answer = Answer([], error)
    try:
        connection.send(answer)
    except (TypeError, AttributeError, ValueError) as error:  # an exception that is not pickled
        connection.send(Answer([], RuntimeError(f"{answer.error!r} ({error})")))


def serve(socket: int, memory: int, size: int, parent: int) -> None:
    """Make batches until the connection closes or the parent is gone.

    Args:
        socket: file descriptor of the connection.
        memory: file descriptor of the shared memory.
        size: its bytes.
        parent: the parent's process id.
    """
    with Connection(socket) as connection, mmap.mmap(memory, size) as shared:
        try:
            source = connection.recv()
            while True:
                if connection.poll(_LOOK):
                    _answer(connection, source, shared)
                elif os.getppid() != parent:
                    return
        except (EOFError, ConnectionError):
            return
