"""What a prototxt describes: a net, a solver, or something else such as a label map."""

from __future__ import annotations

import os
from pathlib import Path

from caffe_bridge.errors import TextParseError
from caffe_bridge.schema.messages import record_type
from caffe_bridge.schema.record import Record
from caffe_bridge.schema.text import read_text

NET, SOLVER, OTHER = "net", "solver", "other"


def kind_of(record: Record) -> str:
    """Kind of a file, from its text read as NetParameter."""
    if record.has("layer") or record.has("layers"):
        return NET
    solver = record_type("SolverParameter").fields
    if any(item.name in solver for item in record.unknown):
        return SOLVER
    return OTHER if record.unknown or not record.has("name") else NET


def prototxt_kind(path: str | os.PathLike[str]) -> str:
    """Kind of a prototxt file: "net", "solver" or "other".

    A file with a syntax error is judged by the words that its lines start with.

    Raises:
        SchemaError: missing or not a text file.
    """
    try:
        return kind_of(read_text(path, "NetParameter"))
    except TextParseError:
        return _kind_of_words(Path(path))


def _kind_of_words(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    words = {line.split(":")[0].split("{")[0].strip() for line in text}
    if words & {"layer", "layers"}:
        return NET
    return SOLVER if words & set(record_type("SolverParameter").fields) else OTHER
