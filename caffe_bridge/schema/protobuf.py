"""Real protobuf messages of our schema, for scripts that were written against ``caffe_pb2``.

The classes come from the private pool, so they never clash with those of an installed Caffe;
their full names start with ``caffe_bridge.`` instead of ``caffe.``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema.messages import PACKAGE, message_class, pool
from caffe_bridge.schema.record import Record
from caffe_bridge.schema.wire import decode, encode


@lru_cache(maxsize=1)
def module_names() -> dict[str, Any]:
    """What ``caffe_pb2`` exports: message classes, enum wrappers and their values by name."""
    names: dict[str, Any] = {}
    file = pool().FindFileContainingSymbol(f"{PACKAGE}.NetParameter")
    names["DESCRIPTOR"] = file
    for message in file.message_types_by_name:
        names[message] = message_class(message)
    for name, enum in file.enum_types_by_name.items():
        names[name] = EnumTypeWrapper(enum)
        names.update({value.name: value.number for value in enum.values})
    return names


def to_message(record: Record) -> Any:
    """The protobuf message that equals a record (text fields unknown to the schema are left out).

    Raises:
        SchemaError: a value that no binary file can hold.
    """
    message = message_class(record.message_name)()
    message.ParseFromString(encode(record))
    return message


def from_message(message: Any) -> Record:
    """The record that equals a protobuf message of our schema or of a real ``caffe_pb2``.

    Raises:
        SchemaError: no message, or one that the schema does not have.
    """
    descriptor = getattr(message, "DESCRIPTOR", None)
    if descriptor is None or descriptor.name not in module_names():
        raise SchemaError(
            f"{type(message).__name__}: is no message of Caffe's schema; pass caffe_pb2 messages."
        )
    return decode(message.SerializeToString(), descriptor.name, descriptor.name)
