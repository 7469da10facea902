"""The schema itself: a private descriptor pool and plain descriptions of every message.

The serialized descriptor set ``caffe.desc`` is built from ``proto/caffe.proto`` by
``tools/build_proto.py``. It lives in a pool of its own under our own package name, so that a real
caffe, OpenCV or another converter in the same process never clashes with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "caffe_bridge"
_KINDS = {
    1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32",
    8: "bool", 9: "string", 11: "message", 12: "bytes", 13: "uint32", 14: "enum", 15: "sfixed32",
    16: "sfixed64", 17: "sint32", 18: "sint64",
}  # fmt: skip
#: Bulk fields: decoded to numpy arrays instead of lists.
BULK = {
    ("BlobProto", "data"): "<f4",
    ("BlobProto", "diff"): "<f4",
    ("BlobProto", "double_data"): "<f8",
    ("BlobProto", "double_diff"): "<f8",
    ("Datum", "float_data"): "<f4",
}
#: Smallest and largest value of the integer kinds.
INTEGERS = {
    "int32": (-(1 << 31), (1 << 31) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
}


def single(value: float) -> float:
    """The float32 next to ``value``, stated by its shortest decimal: 0.1, not 0.10000000149.

    Every float of a record has this form, so text and binary files give equal records.
    """
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


@dataclass(frozen=True)
class EnumType:
    """An enum: value names and numbers both ways."""

    name: str
    numbers: dict[str, int]
    names: dict[int, str]


@dataclass
class FieldType:
    """One field of a message.

    ``kind`` is the protobuf scalar name, ``message`` or ``enum``; ``bulk`` is the numpy dtype of
    weight and picture data, else empty.
    """

    name: str
    number: int
    kind: str
    repeated: bool
    packed: bool
    default: Any
    bulk: str = ""
    message: RecordType | None = None
    enum: EnumType | None = None


@dataclass
class RecordType:
    """A message: its short name and its fields by name and by number."""

    name: str
    fields: dict[str, FieldType] = field(default_factory=dict)
    by_number: dict[int, FieldType] = field(default_factory=dict)


def _descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    data = resources.files("caffe_bridge.schema").joinpath("caffe.desc").read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(data)


@lru_cache(maxsize=1)
def pool() -> descriptor_pool.DescriptorPool:
    """The private descriptor pool."""
    result = descriptor_pool.DescriptorPool()
    for file in _descriptor_set().file:
        result.AddSerializedFile(file.SerializeToString())
    return result


def message_class(name: str) -> type:
    """The protobuf message class ``name`` ("NetParameter"), for code that needs real messages."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


def _default(proto: Any, kind: str, enum: EnumType | None) -> Any:
    text = proto.default_value if proto.HasField("default_value") else None
    if kind == "enum":
        return text if text is not None else next(iter(enum.numbers)) if enum else ""
    if kind == "string":
        return text or ""
    if kind == "bytes":
        return (text or "").encode("latin-1")
    if kind == "bool":
        return text == "true"
    if kind in ("float", "double"):
        number = float(text) if text is not None else 0.0
        return single(number) if kind == "float" else number
    return int(text) if text is not None else 0


@lru_cache(maxsize=1)
def _types() -> tuple[dict[str, RecordType], dict[str, EnumType]]:
    records: dict[str, RecordType] = {}
    enums: dict[str, EnumType] = {}
    protos: list[tuple[str, Any]] = []

    def add_enum(prefix: str, proto: Any) -> None:
        numbers = {value.name: value.number for value in proto.value}
        names = {number: name for name, number in reversed(numbers.items())}
        enums[prefix + proto.name] = EnumType(proto.name, numbers, names)

    def walk(prefix: str, proto: Any) -> None:
        full = prefix + proto.name
        records[full] = RecordType(full)
        protos.append((full, proto))
        for nested in proto.enum_type:
            add_enum(full + ".", nested)
        for nested in proto.nested_type:
            walk(full + ".", nested)

    for file in _descriptor_set().file:
        for enum in file.enum_type:
            add_enum("", enum)
        for message in file.message_type:
            walk("", message)
    for full, proto in protos:
        record = records[full]
        for item in proto.field:
            kind = _KINDS[item.type]
            target = item.type_name.removeprefix(f".{PACKAGE}.")
            enum_type = enums[target] if kind == "enum" else None
            made = FieldType(
                name=item.name,
                number=item.number,
                kind=kind,
                repeated=item.label == item.LABEL_REPEATED,
                packed=item.options.packed,
                default=None if kind == "message" else _default(item, kind, enum_type),
                bulk=BULK.get((full, item.name), ""),
                message=records[target] if kind == "message" else None,
                enum=enum_type,
            )
            record.fields[item.name] = made
            record.by_number[item.number] = made
    return records, enums


def record_type(name: str) -> RecordType:
    """Description of the message ``name``; nested ones as ``Outer.Inner``."""
    return _types()[0][name]


def enum_type(name: str) -> EnumType:
    """Description of the enum ``name``; nested ones as ``Message.Enum``."""
    return _types()[1][name]
