"""Log lines in glog's form, so that old parse_log and plotting scripts keep working."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable
from typing import TextIO

#: Receives every finished line.
Sink = Callable[[str], None]


def glog_line(
    message: str, place: str = "solver.cpp:1", now: datetime.datetime | None = None
) -> str:
    """``I1124 06:00:00.000000  1234 solver.cpp:1] message``."""
    time = now or datetime.datetime.now()
    return f"I{time:%m%d %H:%M:%S.%f} {os.getpid():>5} {place}] {message}"


def stream_sink(stream: TextIO | None = None) -> Sink:
    """A sink that writes to a stream (stderr by default) and flushes."""

    def write(line: str) -> None:
        target = stream or sys.stderr
        target.write(line + "\n")
        target.flush()

    return write


def silent(_line: str) -> None:
    """A sink that drops every line."""
