"""Messages as plain Python objects: what the rest of the package sees of a Caffe file.

A :class:`Record` knows which fields its message has and their defaults, which of them were given
(Caffe's ``has_x``), the line it started on, and every field that the schema does not know, so
that nothing a fork added is lost between reading and writing.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema.messages import FieldType, RecordType, record_type


@dataclass(frozen=True)
class Unknown:
    """A text field that the schema does not have; ``value`` is its literal text or fields."""

    name: str
    value: str | list[Unknown]
    line: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True)
class RawUnknown:
    """A field of a binary file that the schema does not have; ``data`` is its encoded value."""

    number: int
    wire_type: int
    data: bytes


class Record:
    """One message. Attributes are fields: ``layer.convolution_param.num_output``.

    Reading an unset field gives its default (an empty tuple when repeated, an empty record when
    it is a message). Enum values are their names. Assigning a field sets it.
    """

    __slots__ = ("_type", "_values", "line", "origin", "raw_unknown", "unknown")

    def __init__(self, kind: str | RecordType, /, **values: Any) -> None:
        object.__setattr__(self, "_type", record_type(kind) if isinstance(kind, str) else kind)
        object.__setattr__(self, "_values", {})
        self.unknown: list[Unknown]
        object.__setattr__(self, "unknown", [])
        object.__setattr__(self, "raw_unknown", [])
        object.__setattr__(self, "line", 0)
        object.__setattr__(self, "origin", "")
        for name, value in values.items():
            setattr(self, name, value)

    @property
    def message_name(self) -> str:
        """Name of the message, "LayerParameter"."""
        return str(self._type.name)

    @property
    def record_type(self) -> RecordType:
        """Description of the message."""
        kind: RecordType = self._type
        return kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        values = self._values
        if name in values:
            return values[name]
        field = self._field(name)
        if field.repeated:
            return ()
        return Record(field.message) if field.message is not None else field.default

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("line", "origin", "unknown", "raw_unknown"):
            object.__setattr__(self, name, value)
            return
        field = self._field(name)
        if field.repeated and not field.bulk:
            value = list(value)
        self._values[name] = value

    def _field(self, name: str) -> FieldType:
        try:
            return self._type.fields[name]
        except KeyError:
            raise AttributeError(f"{self._type.name} has no field '{name}'") from None

    def has(self, name: str) -> bool:
        """Whether the field was given (for a repeated one: at least once)."""
        self._field(name)
        value = self._values.get(name)
        return value is not None and (not isinstance(value, list) or bool(value))

    def has_field(self, name: str) -> bool:
        """Whether the message has such a field at all."""
        return name in self._type.fields

    def clear(self, name: str) -> None:
        """Forget the field's value."""
        self._field(name)
        self._values.pop(name, None)

    def add(self, name: str, /, **values: Any) -> Record:
        """Append a new message to a repeated message field and return it."""
        field = self._field(name)
        if field.message is None or not field.repeated:
            raise SchemaError(f"{self._type.name}.{name} is not a repeated message.")
        made = Record(field.message, **values)
        self._values.setdefault(name, []).append(made)
        return made

    def append(self, name: str, value: Any) -> None:
        """Append a value to a repeated field."""
        self._field(name)
        self._values.setdefault(name, []).append(value)

    def mutable(self, name: str) -> Record:
        """The sub-message ``name``, created when it was not given."""
        field = self._field(name)
        if name not in self._values and field.message is not None:
            self._values[name] = Record(field.message)
        value: Record = self._values[name]
        return value

    def items(self) -> Iterator[tuple[FieldType, Any]]:
        """Given fields in the order they were given."""
        for name, value in self._values.items():
            if self.has(name):
                yield self._type.fields[name], value

    def copy(self) -> Record:
        """Deep copy; weight data is shared, not copied."""
        made = Record(self._type)
        for name, value in self._values.items():
            if isinstance(value, Record):
                made._values[name] = value.copy()
            elif isinstance(value, list):
                made._values[name] = [v.copy() if isinstance(v, Record) else v for v in value]
            else:
                made._values[name] = value
        made.unknown = copy.copy(self.unknown)
        made.raw_unknown = copy.copy(self.raw_unknown)
        made.line, made.origin = self.line, self.origin
        return made

    def merge(self, other: Record) -> None:
        """Protobuf's merge: scalars replaced, messages merged, repeated fields appended."""
        for field, value in other.copy().items():
            if field.bulk and self.has(field.name):
                parts = [np.asarray(self._values[field.name]), np.asarray(value)]
                self._values[field.name] = np.concatenate(parts)
            elif field.repeated and not field.bulk:
                self._values.setdefault(field.name, []).extend(value)
            elif isinstance(value, Record) and field.name in self._values:
                self._values[field.name].merge(value)
            else:
                self._values[field.name] = value
        self.unknown.extend(other.unknown)
        self.raw_unknown.extend(other.raw_unknown)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record) or other._type is not self._type:
            return NotImplemented
        mine, theirs = ({f.name: v for f, v in r.items()} for r in (self, other))
        return (
            mine.keys() == theirs.keys()
            and self.unknown == other.unknown
            and self.raw_unknown == other.raw_unknown
            and all(_equal(self._type.fields[name], mine[name], theirs[name]) for name in mine)
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        state = (self._values, self.unknown, self.raw_unknown, self.line, self.origin)
        return _rebuild, (self._type.name, *state)

    def __repr__(self) -> str:
        inner = ", ".join(f"{f.name}={v!r}" for f, v in self.items() if not f.bulk)
        return f"{self._type.name}({inner})"

    def where(self) -> str:
        """``file:line`` of the place it was read from, as far as known."""
        if self.origin and self.line:
            return f"{self.origin}:{self.line}"
        return self.origin or (f"line {self.line}" if self.line else "")


def _equal(kind: FieldType, mine: Any, theirs: Any) -> bool:
    if kind.bulk:
        left, right = np.asarray(mine, kind.bulk), np.asarray(theirs, kind.bulk)
        return np.array_equal(left, right, equal_nan=True)
    return bool(mine == theirs)


def _rebuild(
    name: str,
    values: dict[str, Any],
    unknown: list[Unknown],
    raw_unknown: list[RawUnknown],
    line: int,
    origin: str,
) -> Record:
    made = Record(name)
    made._values.update(values)
    made.unknown, made.raw_unknown, made.line, made.origin = unknown, raw_unknown, line, origin
    return made


def unknown_fields(record: Record, path: str = "") -> list[tuple[str, int]]:
    """Dotted path and line of every text field that the schema does not know."""
    found = [(f"{path}{u.name}", u.line) for u in record.unknown]
    found += [(f"{path}#{raw.number}", 0) for raw in record.raw_unknown]
    for field, value in record.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Record):
                name = item.name if item.has_field("name") and item.has("name") else ""
                label = f"{field.name}[{name}]" if isinstance(name, str) and name else field.name
                found += unknown_fields(item, f"{path}{label}.")
    return found
