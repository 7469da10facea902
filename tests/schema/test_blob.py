"""Stored blobs: shapes old and new, number types, reading out of mapped files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema import Record, make_blob, read_binary, stored_blob, write_binary
from caffe_bridge.schema.blob import FileArray


def legacy(*shape: int) -> Record:
    names = ("num", "channels", "height", "width")
    record = Record("BlobProto", **dict(zip(names, shape, strict=False)))
    record.data = np.arange(int(np.prod(shape)), dtype=np.float32)
    return record


@pytest.mark.parametrize(
    ("stored", "shape", "fits"),
    [
        ((1, 1, 1, 5), (5,), True),
        ((1, 1, 3, 5), (3, 5), True),
        ((2, 3, 4, 5), (2, 3, 4, 5), True),
        ((1, 1, 1, 1), (), True),
        ((1, 1, 1, 5), (1, 5), True),
        ((1, 1, 3, 5), (5, 3), False),
        ((1, 5, 1, 1), (5,), False),
        ((5, 1, 1, 1), (5,), False),
        ((1, 1, 3, 5), (1, 1, 1, 3, 5), False),
    ],
)
def test_legacy_shapes_count_from_the_end(stored, shape, fits) -> None:
    blob = stored_blob(legacy(*stored))
    assert blob.legacy
    assert blob.shape == stored
    assert blob.fits(shape) is fits


@pytest.mark.parametrize(
    ("stored", "shape", "fits"),
    [((5,), (5,), True), ((1, 5), (5,), False), ((5,), (1, 5), False), ((), (), True)],
)
def test_new_shapes_must_be_equal(stored, shape, fits) -> None:
    blob = stored_blob(make_blob(np.zeros(stored, np.float32)))
    assert not blob.legacy
    assert blob.fits(shape) is fits


def test_one_legacy_number_makes_a_blob_legacy() -> None:
    record = make_blob(np.zeros((2, 3), np.float32))
    record.num = record.channels = 1
    record.height, record.width = 2, 3
    assert stored_blob(record).shape == (1, 1, 2, 3)


def test_double_data_is_preferred() -> None:
    record = make_blob(np.array([0.1, 0.2]))
    assert record.has("double_data")
    assert not record.has("data")
    record.data = np.array([7, 7], np.float32)
    out = np.zeros(2, np.float32)
    stored_blob(record).read_into(out)
    assert np.array_equal(out, np.array([0.1, 0.2], np.float32))


def test_gradients() -> None:
    record = make_blob(np.zeros(2, np.float32))
    record.diff = np.array([3, 4], np.float32)
    assert list(stored_blob(record, gradient=True).array()) == [3, 4]
    record.double_diff = np.array([5, 6], np.float64)
    assert list(stored_blob(record, gradient=True).array()) == [5, 6]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("FLOAT16", "<f2"), ("FLOAT", "<f4"), ("DOUBLE", "<f8"), ("INT", "<i4"), ("UINT", "<u4")],
)
def test_raw_data(kind: str, dtype: str) -> None:
    values = np.array([[1, 2], [3, 4]], dtype)
    record = Record("BlobProto", raw_data=values.tobytes(), raw_data_type=kind)
    record.mutable("shape").dim = [2, 2]
    blob = stored_blob(record)
    assert np.array_equal(blob.array(), values)
    out = np.zeros((2, 2), np.float32)
    blob.read_into(out)
    assert np.array_equal(out, values.astype(np.float32))


@pytest.mark.parametrize(("kind", "size"), [("FLOAT16", 3), ("BOOL", 2)])
def test_damaged_raw_data(kind: str, size: int) -> None:
    record = Record("BlobProto", raw_data=b"\0" * size, raw_data_type=kind)
    with pytest.raises(SchemaError, match=f"raw_data holds {size} bytes of type {kind}"):
        stored_blob(record)


def test_wrong_counts() -> None:
    record = make_blob(np.zeros((2, 3), np.float32))
    record.data = np.zeros(5, np.float32)
    record.origin = "w.caffemodel: layer 'ip', blob 0"
    with pytest.raises(SchemaError, match=r"'ip', blob 0: a blob of shape \(2, 3\) holds 5 values"):
        stored_blob(record)
    with pytest.raises(SchemaError, match="BlobProto: a blob of shape"):
        stored_blob(Record("BlobProto", data=[1.0, 2.0]))


def test_a_blob_without_values_has_none() -> None:
    record = Record("BlobProto")
    record.mutable("shape").dim = [2, 3]
    assert stored_blob(record).count == 0


@pytest.fixture
def mapped(tmp_path: Path) -> FileArray:
    path = tmp_path / "w.caffemodel"
    layer = Record("LayerParameter", blobs=[make_blob(np.arange(12, dtype=np.float32))])
    write_binary(Record("NetParameter", name="n", layer=[layer]), path)
    values = read_binary(path, "NetParameter").layer[0].blobs[0].data
    assert isinstance(values, FileArray)
    return values


def test_mapped_values(mapped: FileArray) -> None:
    wanted = np.arange(12, dtype=np.float32)
    view = np.asarray(mapped)
    assert np.array_equal(view, wanted)
    assert not view.flags.owndata
    assert not view.flags.writeable
    assert np.array(mapped, copy=True).flags.writeable
    assert np.asarray(mapped, np.float64).dtype == np.float64
    assert len(mapped) == 12


@pytest.mark.parametrize("kind", ["plain", "shaped", "double", "strided"])
def test_read_into_equals_the_view(mapped: FileArray, kind: str) -> None:
    outs = {
        "plain": np.zeros(12, np.float32),
        "shaped": np.zeros((3, 4), np.float32),
        "double": np.zeros((3, 4), np.float64),
        "strided": np.zeros((4, 3), np.float32).T,
    }
    out = outs[kind]
    mapped.read_into(out)
    assert np.array_equal(out.reshape(-1), np.asarray(mapped))


def test_stored_blob_reads_into_strided_arrays() -> None:
    out = np.zeros((4, 3), np.float32).T
    stored_blob(make_blob(np.arange(12, dtype=np.float32).reshape(3, 4))).read_into(out)
    assert np.array_equal(out, np.arange(12).reshape(3, 4))


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.caffemodel"
    layer = Record("LayerParameter", blobs=[make_blob(np.zeros(4000, np.float32))])
    write_binary(Record("NetParameter", layer=[layer]), path)
    values = read_binary(path, "NetParameter").layer[0].blobs[0].data
    with path.open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(SchemaError, match="shrank while it was being read"):
        values.read_into(np.zeros(4000, np.float32))
