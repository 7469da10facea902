"""Watching the other processes of a run, so that one that dies ends all with one clear message.

Every rank counts up a number in the launcher's key-value store, from a thread of its own. A rank
is lost when it says that it failed, or when its number stands still for too long. Neither a
collective that waits for ever nor the launcher's SIGTERM can keep the thread from speaking: Python
writes the number of a signal to a pipe that it reads.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from caffe_bridge.errors import SolverError

#: Seconds between two signs of life.
BEAT = 0.5
#: Seconds in which a living rank shows a sign of life even on a busy machine.
PROMPT = 3.0
#: Seconds until a process that cannot end by itself is ended; one that failed is gone by then.
LAST = 20.0


class RankLost(SolverError):  # noqa: N818 - what happened, not which class of error
    """Another process of the run ended too early."""


class Monitor:
    """The signs of life of all ranks.

    Args:
        store: key-value store (``set`` and ``multi_get``) on a connection of its own.
        rank: this process.
        ranks: number of processes.
        limit: seconds of silence after which a rank counts as lost.
        advice: what to do, the end of every message.
    """

    def __init__(self, store: Any, rank: int, ranks: int, limit: float, advice: str) -> None:
        self.store, self.rank, self.ranks = store, rank, ranks
        self.limit, self.advice = limit, advice
        self.finishing = False
        self._end, self._why = "", ""
        self._count = 0
        self._seen: dict[int, tuple[int, float]] = {}
        self._claimed = threading.Lock()
        self._stopped = threading.Event()
        self._ended_at: float | None = None
        self._heard: float | None = None
        self._pipe = os.pipe()
        self._undo: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._watch, name="rank-monitor", daemon=True)
        self._beat()

    def start(self) -> None:
        """Begin to watch; called in the main thread, when every rank has shown itself."""
        for end in self._pipe:
            os.set_blocking(end, False)
        before_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        before = signal.signal(signal.SIGTERM, lambda _number, _frame: None)

        def undo() -> None:
            signal.signal(signal.SIGTERM, before)
            signal.set_wakeup_fd(before_fd)

        self._undo = undo
        self._thread.start()

    @staticmethod
    def key(rank: int) -> str:
        """Where a rank shows its signs of life."""
        return f"rank/{rank}"

    def _beat(self) -> None:
        self._count += 1
        value = {"count": self._count, "end": self._end, "why": self._why}
        self.store.set(self.key(self.rank), json.dumps(value))

    def fail(self, why: str) -> None:
        """Tell the other ranks why this one ends."""
        self._claimed.acquire(blocking=False)
        if not self._end:
            self._end, self._why = "failed", why

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """While this lasts the main thread, which ends the run, may take as long as it needs."""
        self._claimed.acquire(blocking=False)
        self._ended_at = math.inf
        try:
            yield
        finally:
            self._ended_at = time.monotonic()

    def finish(self) -> None:
        """Stop watching; this rank is done."""
        self._end = self._end or "done"
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(RuntimeError):
            self._beat()
        if self._undo:
            self._undo()
        for end in self._pipe:
            os.close(end)

    def explain(self, cause: str) -> RankLost:
        """The error for a collective that failed: names the rank that caused it, if it can."""
        self._claimed.acquire(blocking=False)
        deadline = time.monotonic() + PROMPT
        reason = self._failed()
        while not reason and time.monotonic() < deadline:
            time.sleep(BEAT / 2)
            reason = self._failed()
        return self._lost(reason or self._silent(PROMPT) or f"a rank was lost ({cause})")

    def _lost(self, reason: str) -> RankLost:
        self._end, self._why = "followed", reason
        self._ended_at = time.monotonic()
        return RankLost(f"rank {self.rank} of {self.ranks} stops: {reason}; {self.advice}")

    def _look(self) -> None:
        """Take note of every rank's sign of life."""
        others = [r for r in range(self.ranks) if r != self.rank]
        values = self.store.multi_get([self.key(r) for r in others])
        now = time.monotonic()
        self._reports = {r: json.loads(v) for r, v in zip(others, values, strict=True)}
        for rank, report in self._reports.items():
            before = self._seen.get(rank)
            if before is None or before[0] != report["count"]:
                self._seen[rank] = (report["count"], now)

    _reports: dict[int, dict[str, Any]] = {}

    def _failed(self) -> str:
        said = [f"rank {r} failed: {v['why']}" for r, v in self._reports.items()
                if v["end"] == "failed"]  # fmt: skip
        return "; ".join(text.rstrip(".") for text in said)

    def _silent(self, limit: float) -> str:
        now = time.monotonic()
        gone = [
            f"rank {rank}" for rank, (_count, at) in self._seen.items()
            if now - at >= limit * 0.8 and not self._reports[rank]["end"]
        ]  # fmt: skip
        return f"{', '.join(gone)} died or lost its connection" if gone else ""

    def _watch(self) -> None:
        ordered_at: float | None = None
        while not self._stopped.is_set():
            ready, _, _ = select.select([self._pipe[0]], [], [], BEAT)
            if ready and signal.SIGTERM in os.read(self._pipe[0], 4096) and ordered_at is None:
                ordered_at = time.monotonic()
            lost = ""
            try:
                self._beat()
                self._look()
                lost = self._failed() or self._silent(self.limit)
            except (RuntimeError, OSError):
                if not self.finishing and not self._end:
                    lost = "the host of rank 0, which keeps the list of ranks, does not answer"
            if ordered_at is not None and not lost:
                late = time.monotonic() - ordered_at >= PROMPT
                lost = self._silent(PROMPT) or (
                    "the launcher ended it (SIGTERM): another rank died or the run was stopped"
                    if late else ""
                )  # fmt: skip
            if lost and not self._stopped.is_set():
                self._leave(lost)
            if self._ended_at is not None and time.monotonic() - self._ended_at > LAST:
                os._exit(1)

    def _leave(self, reason: str) -> None:
        """End this process, unless the main thread is about to."""
        if self._failed():
            # The collective breaks when that process is gone: the main thread then ends the run.
            self._heard = self._heard or time.monotonic()
            if time.monotonic() - self._heard < LAST:
                return
        if not self._claimed.acquire(blocking=False):
            if self._ended_at is None:
                self._ended_at = time.monotonic()
            return
        text = str(self._lost(reason))
        sys.stderr.write(f"error: {text}\n")
        sys.stderr.flush()
        try:
            self._beat()
        finally:
            os._exit(1)
