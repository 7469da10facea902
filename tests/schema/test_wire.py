"""The wire format against protobuf itself."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema import Record, decode, encode, parse_text, read_binary, stored_blob
from caffe_bridge.schema.messages import RecordType, message_class, record_type
from caffe_bridge.schema.record import RawUnknown
from caffe_bridge.schema.wire import WireError
from tests.shared import SHARED, needs_shared

NET = """
name: "net é" force_backward: true
input: "data" input_dim: 1 input_dim: -3 input_shape { dim: 1 dim: -1 dim: 5000000000 }
state { phase: TRAIN level: -2 stage: "a" stage: "b" }
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv" loss_weight: 0.1 loss_weight: -2
  propagate_down: true propagate_down: false phase: TRAIN
  param { name: "w" lr_mult: 0.3 decay_mult: 0 share_mode: PERMISSIVE }
  include { phase: TEST min_level: -1 not_stage: "x" }
  convolution_param { num_output: 4294967295 pad: 1 pad: 2 axis: -3 bias_term: false
    weight_filler { type: "gaussian" std: 1e-30 sparse: -1 variance_norm: AVERAGE } }
  pooling_param { pool: STOCHASTIC }
}
"""
SAMPLES: dict[str, Any] = {
    "double": [0.1, -math.inf], "float": [0.1, -3.5, 1e-30],
    "int64": [-(1 << 63), 5, (1 << 63) - 1],
    "int32": [-1, -(1 << 31), (1 << 31) - 1], "uint32": [0, 127, 128, (1 << 32) - 1],
    "bool": [True, False], "string": ["", "é\0"], "bytes": [b"", b"\x00\xff"],
}  # fmt: skip


def fields_equal(record: Record, message: Any) -> bool:
    """Whether a record and a protobuf message hold the same fields, recursively."""
    names = []
    for field, value in record.items():
        theirs = getattr(message, field.name)
        if field.bulk:
            equal = np.array_equal(np.asarray(value), np.array(theirs, field.bulk), equal_nan=True)
        else:
            mine = value if field.repeated else [value]
            other = list(theirs) if field.repeated else [theirs]
            equal = len(mine) == len(other) and all(
                fields_equal(a, b) if isinstance(a, Record)
                else (field.enum.numbers.get(a) if field.enum else a) == b
                if field.kind != "float" else np.float32(a) == np.float32(b)
                for a, b in zip(mine, other, strict=True)
            )  # fmt: skip
        if not equal:
            return False
        names.append(field.name)
    return sorted(names) == sorted(d.name for d, _ in message.ListFields())


def filled(kind: RecordType, turn: int) -> Record:
    """A record with every field of every message below it given."""
    made = Record(kind)
    for name, field in kind.fields.items():
        if field.message is not None:
            value: Any = filled(field.message, turn)
        elif field.enum is not None:
            value = list(field.enum.numbers)[turn % len(field.enum.numbers)]
        else:
            value = SAMPLES[field.kind][turn % len(SAMPLES[field.kind])]
        if field.bulk:
            value = np.arange(3, dtype=field.bulk) + turn
        setattr(made, name, [value, value] if field.repeated and not field.bulk else value)
    return made


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("name", ["NetParameter", "SolverParameter", "SolverState", "Datum"])
def test_every_field_of_every_message_equals_protobuf(name: str, turn: int) -> None:
    record = filled(record_type(name), turn)
    data = encode(record)
    message = message_class(name).FromString(data)
    assert fields_equal(record, message)
    assert decode(data, name) == record
    assert decode(message.SerializeToString(), name) == record
    assert len(data) == message.ByteSize()


def test_text_net_through_protobuf_and_back() -> None:
    record = parse_text(NET, "NetParameter")
    data = encode(record)
    message = message_class("NetParameter").FromString(data)
    assert message.SerializeToString(deterministic=True) == data
    assert decode(data, "NetParameter") == record
    assert message.layer[0].convolution_param.num_output == 4294967295
    assert list(message.input_shape[0].dim) == [1, -1, 5000000000]


def test_packed_and_unpacked_numbers_are_both_read() -> None:
    packed = b"\x0a\x03\x01\x02\x03"
    unpacked = b"\x08\x01\x08\x02\x08\x03"
    assert decode(packed, "BlobShape") == decode(unpacked, "BlobShape")
    assert list(decode(packed + unpacked, "BlobShape").dim) == [1, 2, 3, 1, 2, 3]
    weights = np.array([0.1, -2], "<f4").tobytes()
    loose = b"\x2d" + weights[:4] + b"\x2d" + weights[4:]
    assert decode(b"\x2a\x08" + weights, "BlobProto") == decode(loose, "BlobProto")
    losses = b"\x2a\x08" + weights
    assert list(decode(losses, "LayerParameter").loss_weight) == [0.1, -2]


def test_packed_runs_are_joined() -> None:
    first, second = np.arange(3, dtype="<f4"), np.arange(3, 5, dtype="<f4")
    data = b"\x2a\x0c" + first.tobytes() + b"\x08\x01" + b"\x2a\x08" + second.tobytes()
    record = decode(data, "BlobProto")
    assert np.array_equal(record.data, np.arange(5, dtype="<f4"))
    assert list(message_class("BlobProto").FromString(data).data) == list(record.data)


def test_a_message_given_twice_is_merged() -> None:
    data = encode(parse_text("state { level: 1 stage: 'a' }", "NetParameter"))
    data += encode(parse_text("state { level: 2 stage: 'b' }", "NetParameter"))
    assert decode(data, "NetParameter") == parse_text(
        "state { level: 2 stage: 'a' stage: 'b' }", "NetParameter"
    )


def _foreign() -> Any:
    """A message of another schema, with fields of all wire types that NetParameter lacks."""
    file = descriptor_pb2.FileDescriptorProto(name="foreign.proto", package="foreign")
    message = file.message_type.add(name="Net")
    kinds = {1: ("name", 9), 9000: ("v", 5), 9001: ("d", 1), 9002: ("f", 2), 9003: ("b", 12)}
    for number, (name, kind) in kinds.items():
        message.field.add(name=name, number=number, type=kind, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("foreign.Net"))


def test_unknown_fields_are_kept() -> None:
    foreign = _foreign()
    data = foreign(name="n", v=-5, d=0.1, f=0.5, b=b"\x01\x02").SerializeToString()
    record = decode(data, "NetParameter")
    assert record.name == "n"
    assert [raw.number for raw in record.raw_unknown] == [9000, 9001, 9002, 9003]
    assert encode(record) == data
    assert foreign.FromString(encode(record)).v == -5
    assert record.raw_unknown[3] == RawUnknown(9003, 2, b"\x01\x02")


def test_a_known_number_of_another_wire_type_is_kept_raw() -> None:
    record = decode(b"\x08\x07", "NetParameter")
    assert not record.has("name")
    assert encode(record) == b"\x08\x07"


def test_unknown_enum_numbers_survive() -> None:
    data = b"\x08\x63"
    record = decode(data, "PoolingParameter")
    assert record.pool == "99"
    assert encode(record) == data


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record("PoolingParameter", pool="MIN"), "'MIN' is no value of PoolMethod"),
        (Record("ConvolutionParameter", num_output=-1), "num_output is -1, outside uint32"),
        (Record("SoftmaxParameter", axis=1 << 31), "axis is 2147483648, outside int32"),
    ],
)
def test_values_that_no_binary_file_can_hold(record: Record, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        encode(record)


@pytest.mark.parametrize(
    ("data", "message", "reason"),
    [
        (b"\x0a\x05ab", "NetParameter", "needs 3 more bytes at byte 2 of 4"),
        (b"\x0a", "NetParameter", "bad varint at byte 1"),
        (b"\xff" * 12, "NetParameter", "bad varint at byte 10"),
        (b"\x02\x00", "NetParameter", "field number 0 at byte 0"),
        (b"\x0a\x01a\xff\xff\xff\xff\x7f\x00", "NetParameter", "field number .* at byte 3"),
        (b"\x0b\x0c", "NetParameter", "wire type 3 at byte 1"),
        (b"\x0e", "NetParameter", "wire type 6 at byte 1"),
        (b"\x2a\x03abc", "BlobProto", "data at byte 2 is cut inside a number"),
        (b"\x2a\x03abc", "LayerParameter", "loss_weight at byte 2 is cut inside a number"),
        (b"\x0a\x01\xff", "BlobShape", "bad varint at byte 3"),
        (b"\xa2\x06\x04\x0a\x07ab", "NetParameter", "needs 5 more bytes at byte 5"),
        (b"\x2d\x00\x00", "BlobProto", "needs 2 more bytes at byte 1"),
    ],
)
def test_garbage_says_at_which_byte(data: bytes, message: str, reason: str) -> None:
    with pytest.raises(WireError, match=reason) as caught:
        decode(data, message, "x.caffemodel")
    assert str(caught.value).startswith(f"x.caffemodel: not a whole {message}")


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b"\x35\0\0\x80\x3f" * 3, [1, 1, 1]),
        # A value whose bytes are tags themselves, another field between, and a packed run.
        (b"\x35\x35\x35\x35\x35\x28\x02\x35\0\0\0\x40", [(1 + 0x353535 / 2**23) / 2**21, 2]),
        (b"\x32\x08\0\0\x80\x3f\0\0\0\x40\x35\0\0\x40\x40", [1, 2, 3]),
        (b"\x35\0\0\x80\x3f" * 200 + b"\x28\x02", [1] * 200),
        (b"\xb5\x00\0\0\x80\x3f\xb5\x00\0\0\0\x40\x35\0\0\x40\x40", [1, 2, 3]),
    ],
    ids=["run", "broken", "packed", "long", "two-byte tags"],
)
def test_unpacked_floats_equal_protobuf(data: bytes, values: list[float]) -> None:
    record, message = decode(data, "Datum"), message_class("Datum").FromString(data)
    np.testing.assert_array_equal(record.float_data, np.array(values, np.float32))
    assert fields_equal(record, message)


def test_cut_unpacked_floats_are_refused() -> None:
    with pytest.raises(WireError, match="needs 1 more bytes at byte 6"):
        decode(b"\x35\0\0\x80\x3f\x35\0\0\x80", "Datum")


def test_bulk_floats_of_text_and_binary_are_equal() -> None:
    for message, text in (("Datum", "float_data: 0.1"), ("BlobProto", "data: 0.1")):
        record = parse_text(text, message)
        assert decode(encode(record), message) == record


def test_names_that_are_not_utf8_keep_their_bytes() -> None:
    names = ["层一".encode("gbk"), "层三".encode("gbk")]
    message = message_class("NetParameter")()
    for name in names:
        assert len(name) == 4
        # protobuf takes only UTF-8: a name of as many bytes holds the place.
        message.layer.add(name="four", type="ReLU")
    first, second = (part.SerializeToString() for part in message.layer)
    data = b"".join(
        b"\xa2\x06" + _varint(len(part)) + part.replace(b"four", name)
        for part, name in zip((first, second), names, strict=True)
    )
    record = decode(data, "NetParameter")
    assert record.layer[0].name != record.layer[1].name
    assert [os.fsencode(layer.name) for layer in record.layer] == names
    assert encode(record) == data


def _read(data: bytes) -> Record | None:
    try:
        return decode(data, "NetParameter")
    except SchemaError:
        return None


def test_every_truncation_is_refused_or_shorter() -> None:
    record = parse_text(NET, "NetParameter")
    data = encode(record)
    shorter = [read for size in range(len(data)) if (read := _read(data[:size])) is not None]
    assert record not in shorter
    # Cut between two of the net's own fields; some of them are repeated.
    assert len(shorter) <= sum(1 for _ in record.items()) + 3


def test_random_bytes_give_a_record_or_a_schema_error() -> None:
    rng = np.random.default_rng(3)
    samples = [
        rng.integers(0, 256, rng.integers(1, 60), dtype=np.uint8).tobytes() for _ in range(500)
    ]
    read = [record for data in samples if (record := _read(data)) is not None]
    assert 0 < len(read) < 250
    for record in read:
        assert _read(encode(record)) == record


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def test_huge_files_are_not_read_into_memory(tmp_path: Path) -> None:
    size = (1 << 31) + 8
    blob = b"\x2a" + _varint(size)
    layer = b"\x0a\x01c" + b"\x3a" + _varint(len(blob) + size) + blob
    head = b"\xa2\x06" + _varint(len(layer) + size) + layer
    path = tmp_path / "huge.caffemodel"
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + size)
    begin = time.perf_counter()
    values = read_binary(path, "NetParameter").layer[0].blobs[0].data
    assert len(values) == size // 4
    view = np.asarray(values)
    assert view[-1] == 0.0
    assert not view.flags.owndata
    assert time.perf_counter() - begin < 2.0


def _models() -> list[Path]:
    return sorted(SHARED.rglob("*.caffemodel"))


@needs_shared
def test_all_real_models_equal_protobuf() -> None:
    models = _models()
    for path in models:
        data = path.read_bytes()
        message = message_class("NetParameter").FromString(data)
        record = read_binary(path, "NetParameter")
        for kind in ("layer", "layers"):
            mine, theirs = getattr(record, kind), getattr(message, kind)
            assert len(mine) == len(theirs)
            for layer, other in zip(mine, theirs, strict=True):
                assert layer.name == other.name
                assert len(layer.blobs) == len(other.blobs)
                for blob, proto in zip(layer.blobs, other.blobs, strict=True):
                    bulk = proto.double_data if len(proto.double_data) else proto.data
                    wanted = np.array(bulk)
                    assert np.array_equal(
                        np.asarray(stored_blob(blob).values), wanted.astype("<f4"), equal_nan=True
                    )
        again = message_class("NetParameter").FromString(encode(record))
        assert again.SerializeToString(deterministic=True) == message.SerializeToString(
            deterministic=True
        )
    assert len(models) > 100
