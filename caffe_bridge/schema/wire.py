"""Protobuf's wire format between bytes and records.

Why our own: Caffe's weights are a few megabyte-long byte runs inside small messages. Walking the
tags touches only the headers; each run becomes a numpy view of the (memory-mapped) file, files of
2 GB and more are no special case, and unknown fields keep their bytes. The encoding is described
at protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema.messages import INTEGERS, FieldType, RecordType, record_type, single
from caffe_bridge.schema.record import RawUnknown, Record

VARINT, I64, LEN, START, END, I32 = 0, 1, 2, 3, 4, 5
_WIRE = {"double": I64, "fixed64": I64, "sfixed64": I64, "float": I32, "fixed32": I32,
         "sfixed32": I32, "string": LEN, "bytes": LEN, "message": LEN}  # fmt: skip
_STRUCT = {"double": "<d", "float": "<f", "fixed64": "<Q", "sfixed64": "<q", "fixed32": "<I",
           "sfixed32": "<i"}  # fmt: skip
#: Turns (offset in the buffer, view of the bytes, numpy dtype) into what a bulk field stores.
BulkReader = Callable[[int, memoryview, str], Any]


class WireError(SchemaError):
    """Bytes that are no protobuf message of the expected kind."""


def _view(_offset: int, data: memoryview, dtype: str) -> np.ndarray:
    return np.frombuffer(data, dtype)


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    result = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
    raise WireError(f"bad varint at byte {at}")


def _signed(value: int, kind: str) -> Any:
    if kind == "bool":
        return bool(value)
    if kind in ("sint32", "sint64"):
        return (value >> 1) ^ -(value & 1)
    value &= 0xFFFFFFFFFFFFFFFF
    if kind in ("uint32", "uint64"):
        return value & 0xFFFFFFFF if kind == "uint32" else value
    if kind == "int64":
        return value - (1 << 64) if value >> 63 else value
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _scalar(field: FieldType, value: int) -> Any:
    if field.kind == "enum" and field.enum is not None:
        number = _signed(value, "int32")
        return field.enum.names.get(number, str(number))
    return _signed(value, field.kind)


def _packed(field: FieldType, data: memoryview, at: int, end: int) -> Iterable[Any]:
    if field.kind in _STRUCT:
        if (end - at) % struct.calcsize(_STRUCT[field.kind]):
            raise WireError(f"{field.name} at byte {at} is cut inside a number")
        for (value,) in struct.iter_unpack(_STRUCT[field.kind], data[at:end]):
            yield single(value) if field.kind == "float" else value
        return
    while at < end:
        raw, at = _varint(data, at, end)
        yield _scalar(field, raw)


def _take(data: memoryview, wire: int, at: int, end: int) -> tuple[int, int]:
    """Start and end of the value that begins at ``at``."""
    if wire == VARINT:
        return at, _varint(data, at, end)[1]
    if wire == LEN:
        size, at = _varint(data, at, end)
    elif wire in (I32, I64):
        size = 4 if wire == I32 else 8
    else:
        raise WireError(f"wire type {wire} at byte {at} is not used by Caffe")
    if at + size > end:
        raise WireError(f"needs {at + size - end} more bytes at byte {at}")
    return at, at + size


def _next(data: memoryview, at: int, end: int) -> tuple[int, int, int, int]:
    """The field at ``at``: number, wire type, begin and end of its value."""
    tag, begin = _varint(data, at, end)
    number, wire = tag >> 3, tag & 7
    if not 0 < number < 1 << 29:
        raise WireError(f"field number {number} at byte {at}")
    return (number, wire, *_take(data, wire, begin, end))


def walk(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Every field of a message of any kind: number, wire type, begin and end of its value.

    Raises:
        WireError: the bytes are no message.
    """
    while at < end:
        number, wire, begin, at = _next(data, at, end)
        yield number, wire, begin, at


def _tagged(size: int, dtype: str) -> np.dtype:
    """One number of an unpacked field with its tag of ``size`` bytes before it."""
    return np.dtype([("tag", "u1", (size,)), ("value", dtype)])


def _run(data: memoryview, at: int, begin: int, end: int, dtype: str) -> tuple[np.ndarray, int]:
    """The numbers of an unpacked field from ``at`` while its tag follows, and where they end."""
    item = _tagged(begin - at, dtype)
    items = np.frombuffer(data, item, (end - at) // item.itemsize, at)
    tags, count, step = items["tag"], 1, 64
    while count < len(items):
        same = (tags[count : count + step] == tags[0]).all(1)
        if not same.all():
            count += int(same.argmin())
            break
        count, step = count + len(same), 2 * step  # short looks first: a run may end at once
    return np.ascontiguousarray(items["value"][:count]), at + count * item.itemsize


def _decode(kind: RecordType, data: memoryview, at: int, end: int, bulk: BulkReader) -> Record:
    record = Record(kind)
    runs: dict[str, list[Any]] = {}
    while at < end:
        tag = at
        number, wire, begin, stop = _next(data, tag, end)
        at = stop
        field = kind.by_number.get(number)
        expected = _WIRE.get(field.kind, VARINT) if field else None
        if field is None or (wire != expected and not (wire == LEN and field.repeated)):
            record.raw_unknown.append(RawUnknown(number, wire, bytes(data[begin:stop])))
        elif field.message is not None:
            value = _decode(field.message, data, begin, stop, bulk)
            if field.repeated:
                record.append(field.name, value)
            elif record.has(field.name):
                record.mutable(field.name).merge(value)
            else:
                setattr(record, field.name, value)
        elif field.bulk and wire != LEN:
            values, at = _run(data, tag, begin, end, field.bulk)
            runs.setdefault(field.name, []).append(values)
        elif field.bulk:
            if (stop - begin) % int(field.bulk[-1]):
                raise WireError(f"{field.name} at byte {begin} is cut inside a number")
            runs.setdefault(field.name, []).append(bulk(begin, data[begin:stop], field.bulk))
        elif field.kind in ("string", "bytes"):
            raw = bytes(data[begin:stop])
            decoded = raw if field.kind == "bytes" else raw.decode("utf-8", "surrogateescape")
            if field.repeated:
                record.append(field.name, decoded)
            else:
                setattr(record, field.name, decoded)
        elif wire == LEN:
            for value in _packed(field, data, begin, stop):
                record.append(field.name, value)
        else:
            if wire == VARINT:
                scalar = _scalar(field, _varint(data, begin, stop)[0])
            else:
                scalar = next(iter(_packed(field, data, begin, stop)))
            if field.repeated:
                record.append(field.name, scalar)
            else:
                setattr(record, field.name, scalar)
    for name, parts in runs.items():
        joined = parts[0] if len(parts) == 1 else np.concatenate([np.asarray(p) for p in parts])
        setattr(record, name, joined)
    return record


def decode(
    data: bytes | memoryview, message: str, source: str = "<bytes>", bulk: BulkReader = _view
) -> Record:
    """Decode bytes into a record of the given message.

    Args:
        data: the whole message.
        message: its name, "NetParameter".
        source: file name for error messages.
        bulk: what to keep for weight runs; by default a read-only numpy view of ``data``.

    Raises:
        WireError: not such a message, or cut off; says at which byte.
    """
    view = memoryview(data)
    try:
        record = _decode(record_type(message), view, 0, len(view), bulk)
    except WireError as error:
        raise WireError(
            f"{source}: not a whole {message} ({error} of {len(view)}); "
            "the file is truncated or of another kind, fetch or write it again."
        ) from None
    record.origin = source
    return record


def _put_varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _put_scalar(field: FieldType, value: Any) -> bytes:
    if field.kind in _STRUCT:
        value = single(value) if field.kind == "float" else value
        return struct.pack(_STRUCT[field.kind], value)
    if field.kind == "enum" and field.enum is not None:
        known = field.enum.numbers.get(value)
        if known is None and not str(value).lstrip("-").isdigit():
            raise SchemaError(
                f"'{value}' is no value of {field.enum.name} ({', '.join(field.enum.numbers)}); "
                "it cannot be written to a binary file."
            )
        return _put_varint(int(value) if known is None else known)
    if field.kind in ("sint32", "sint64"):
        return _put_varint((value << 1) ^ (value >> 63))
    least, most = INTEGERS.get(field.kind, (0, 1))
    if not least <= int(value) <= most:
        raise SchemaError(f"{field.name} is {value}, outside {field.kind} ({least} to {most}).")
    return _put_varint(int(value))


def _pieces(record: Record) -> Iterable[tuple[int, list[Any]]]:
    """For each field in number order: its encoded parts and their size."""
    given = sorted(record.items(), key=lambda pair: pair[0].number)
    for field, value in given:
        tag = field.number << 3
        if field.bulk:
            array = np.ascontiguousarray(np.asarray(value), field.bulk).reshape(-1)
            if not field.packed:
                mark = _put_varint(tag | _WIRE[field.kind])
                items = np.empty(array.size, _tagged(len(mark), field.bulk))
                items["tag"], items["value"] = np.frombuffer(mark, np.uint8), array
                yield items.nbytes, [items.view(np.uint8).data]
                continue
            head = _put_varint(tag | LEN) + _put_varint(array.nbytes)
            yield len(head) + array.nbytes, [head, array.view(np.uint8).data]
        elif field.packed:
            body = b"".join(_put_scalar(field, item) for item in value)
            yield (
                len(body) + len(_put_varint(tag | LEN) + _put_varint(len(body))),
                [_put_varint(tag | LEN) + _put_varint(len(body)) + body],
            )
        else:
            for item in value if field.repeated else [value]:
                yield _single(field, tag, item)
    for raw in record.raw_unknown:
        head = _put_varint(raw.number << 3 | raw.wire_type)
        if raw.wire_type == LEN:
            head += _put_varint(len(raw.data))
        yield len(head) + len(raw.data), [head + raw.data]


def _single(field: FieldType, tag: int, item: Any) -> tuple[int, list[Any]]:
    if isinstance(item, Record):
        size, parts = 0, []
        for piece_size, piece in _pieces(item):
            size += piece_size
            parts += piece
        head = _put_varint(tag | LEN) + _put_varint(size)
        return size + len(head), [head, *parts]
    if field.kind in ("string", "bytes"):
        body = item if isinstance(item, bytes) else item.encode("utf-8", "surrogateescape")
        head = _put_varint(tag | LEN) + _put_varint(len(body))
        return len(head) + len(body), [head + body]
    body = _put_varint(tag | _WIRE.get(field.kind, VARINT)) + _put_scalar(field, item)
    return len(body), [body]


def encode_parts(record: Record) -> Iterable[bytes | memoryview]:
    """The encoded message as a sequence of buffers; weight data is not copied."""
    for _size, parts in _pieces(record):
        yield from parts


def encode(record: Record) -> bytes:
    """The encoded message as one byte string."""
    return b"".join(encode_parts(record))
