"""Training logs in glog's form, Caffe's and our own, as tables."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from caffe_bridge.errors import DataError
from caffe_bridge.files import atomic_write, require_file

Row = dict[str, float]
_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|inf|nan))"
_TIME = re.compile(r"^[IWEF](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d+))?")
_ITERATION = re.compile(r"Iteration (\d+)")
_LOSS = re.compile(rf"Iteration \d+.*, loss = {_NUMBER}")
_RATE = re.compile(rf"lr = {_NUMBER}")
_OUTPUT = re.compile(rf"(Train|Test) net output #\d+: (\S+) = {_NUMBER}")
_TEST = re.compile(r"Testing net \(#(\d+)\)")
FIRST_COLUMNS = ("NumIters", "Seconds", "LearningRate")


@dataclass
class TrainingLog:
    """Rows of displays and of tests, each with ``NumIters``, ``Seconds``, ``LearningRate``.

    Further columns are the nets' outputs; those of test net n > 0 end in ``#n``.
    """

    train: list[Row] = field(default_factory=list)
    test: list[Row] = field(default_factory=list)

    def series(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """Values of two columns, y written ``train:loss`` or ``test:accuracy``.

        Raises:
            DataError: no such column.
        """
        part, _, column = y.partition(":")
        rows = {"train": self.train, "test": self.test}.get(part)
        if rows is None or not column:
            raise DataError(f"'{y}': write train:COLUMN or test:COLUMN.")
        found = [row for row in rows if column in row and x in row]
        if not found:
            names = sorted({name for row in rows for name in row})
            raise DataError(f"'{y}' over '{x}': the {part} rows have {', '.join(names) or 'none'}.")
        return [row[x] for row in found], [row[column] for row in found]


class _Clock:
    """Seconds since the first line; glog writes no year, so a jump back is the turn of one."""

    def __init__(self) -> None:
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.seconds = 0.0
        self.turned = timedelta()

    def read(self, line: str) -> None:
        match = _TIME.match(line)
        if match is None:
            return
        month, day, hour, minute, second, fraction = match.groups()
        try:
            now = datetime(2000, int(month), int(day), int(hour), int(minute), int(second))
        except ValueError:
            return
        now += timedelta(microseconds=int((fraction or "0").ljust(6, "0")[:6])) + self.turned
        self.first = self.first or now
        if self.last is not None and now < self.last - timedelta(days=1):
            self.turned += timedelta(days=366)  # the length of the year 2000
            now += timedelta(days=366)
        self.last = now
        self.seconds = (now - self.first).total_seconds()


def read_log(lines: Sequence[str]) -> TrainingLog:
    """The displays and tests that a log's lines tell."""
    log = TrainingLog()
    clock = _Clock()
    rate = float("nan")
    iteration: int | None = None
    suffix = ""
    open_rows: dict[str, Row] = {}
    for line in lines:
        clock.read(line)
        found = _ITERATION.search(line)
        if found:
            iteration = int(found.group(1))
        if iteration is None:
            continue
        tested = _TEST.search(line)
        if tested:
            suffix = f"#{tested.group(1)}" if tested.group(1) != "0" else ""
            if not suffix:
                open_rows["Test"] = _row(log.test, iteration, clock.seconds, rate)
        changed = _RATE.search(line)
        if changed and found:
            rate = float(changed.group(1))
            for rows in (log.train, log.test):
                if rows and rows[-1]["NumIters"] == iteration:
                    rows[-1]["LearningRate"] = rate
        loss = _LOSS.search(line)
        if loss:
            open_rows["Train"] = _row(log.train, iteration, clock.seconds, rate)
            open_rows["Train"]["SmoothedLoss"] = float(loss.group(1))
        output = _OUTPUT.search(line)
        if output:
            part, name, value = output.groups()
            if part not in open_rows:
                rows = log.train if part == "Train" else log.test
                open_rows[part] = _row(rows, iteration, clock.seconds, rate)
            ending = suffix if part == "Test" else ""
            _put(open_rows[part], f"{name}{ending}", float(value))
    return log


def _row(rows: list[Row], iteration: int, seconds: float, rate: float) -> Row:
    rows.append({"NumIters": float(iteration), "Seconds": seconds, "LearningRate": rate})
    return rows[-1]


def _put(row: Row, name: str, value: float) -> None:
    """Outputs of several values come as several lines of one name: ``name``, ``name[1]``, ..."""
    number = 0
    column = name
    while column in row:
        number += 1
        column = f"{name}[{number}]"
    row[column] = value


def read_log_file(path: str | os.PathLike[str]) -> TrainingLog:
    """Read a log file.

    Raises:
        SchemaError: no such file.
        DataError: it tells of no iteration.
    """
    found = require_file(path, "log")
    log = read_log(found.read_text(encoding="utf-8", errors="replace").splitlines())
    if not log.train and not log.test:
        raise DataError(f"{path}: tells of no iteration; give the log of a training run.")
    return log


def table_text(rows: list[Row], delimiter: str = ",") -> str:
    """The rows as CSV with a header; columns that a row lacks are empty."""
    names = list(dict.fromkeys([*FIRST_COLUMNS, *(name for row in rows for name in row)]))
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_text(row.get(name)) for name in names])
    return stream.getvalue()


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if value.is_integer() else f"{value:g}"


def write_tables(
    log: TrainingLog, folder: str | os.PathLike[str], name: str, delimiter: str = ","
) -> list[Path]:
    """Write ``name.train`` and ``name.test`` into a folder (made if missing), as parse_log does."""
    made = []
    Path(folder).mkdir(parents=True, exist_ok=True)
    for rows, ending in ((log.train, "train"), (log.test, "test")):
        target = Path(folder) / f"{name}.{ending}"
        with atomic_write(target) as stream:
            stream.write(table_text(rows, delimiter).encode())
        made.append(target)
    return made
