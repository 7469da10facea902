"""Binary files: round trips, and every file that is not what its name says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema import (
    Record,
    load_weights,
    make_blob,
    parse_text,
    read_binary,
    read_blob,
    write_binary,
    write_blob,
)
from tests.shared import GOLDEN, needs_shared

LAYER = Record("LayerParameter", name="ip", blobs=[make_blob(np.ones((20, 30), np.float32))])
MODEL = Record("NetParameter", name="LeNet", layer=[LAYER])
IMPOSTORS = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
    "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page"),
    "text": (b'name: "LeNet"\nlayer { name: "data" type: "Input" }\n', "is a text file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "is an HDF5 file, expected a binary caffemodel"),
    "empty": (b"", "the caffemodel file is empty"),
    "zeros": (b"\0" * 100, "field number 0 at byte 0"),
    "zip": (b"PK\x03\x04" + b"\0" * 100, "not a whole NetParameter"),
    "other message": (b"\xd0\x8c\x04\x01", "has none of the fields of a NetParameter"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSTORS)
def test_impostors(tmp_path: Path, name: str) -> None:
    content, reason = IMPOSTORS[name]
    path = tmp_path / "w.caffemodel"
    path.write_bytes(content)
    with pytest.raises(SchemaError, match=reason) as caught:
        read_binary(path, "NetParameter")
    assert str(path) in str(caught.value)
    with pytest.raises(SchemaError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.caffemodel", "no such caffemodel file"),
        ("", "is a folder"),
        ("file/x", "no such caffemodel file"),
        ("n" * 300, "cannot be opened"),
    ],
)
def test_no_file(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("x")
    for read in (lambda p: read_binary(p, "NetParameter"), load_weights):
        with pytest.raises(SchemaError, match=reason):
            read(tmp_path / name)


def test_truncated_models(tmp_path: Path) -> None:
    path = write_binary(MODEL, tmp_path / "w.caffemodel")
    data = path.read_bytes()
    for size in (8, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(SchemaError, match=rf"{path}.*truncated.* fetch or write it again"):
            load_weights(path)


def test_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_binary(MODEL, tmp_path / "w.caffemodel")
    before = path.read_bytes()
    broken = MODEL.copy()
    broken.layer.append(Record("LayerParameter", phase="NEVER"))
    with pytest.raises(SchemaError, match="'NEVER' is no value of Phase"):
        write_binary(broken, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.caffemodel"]


def test_binary_round_trip(tmp_path: Path) -> None:
    path = write_binary(MODEL, tmp_path / "w.caffemodel")
    read = read_binary(path, "NetParameter")
    assert read == MODEL
    assert read.origin == str(path)
    copy = write_binary(read, tmp_path / "copy.caffemodel")
    assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 2, 2), (1, 3, 2, 2)])
def test_blob_files_have_four_numbers(tmp_path: Path, shape) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    path = write_blob(values, tmp_path / "mean.binaryproto")
    blob = read_blob(path)
    assert blob.legacy
    assert blob.shape == (1,) * (4 - len(shape)) + shape
    assert np.array_equal(blob.array().reshape(shape), values.astype(np.float32))


def test_blob_files_have_at_most_four_axes(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="up to 4 axes, the array has 5"):
        write_blob(np.zeros((1,) * 5), tmp_path / "mean.binaryproto")
    assert not list(tmp_path.iterdir())


def test_a_blob_file_is_no_model(tmp_path: Path) -> None:
    path = write_blob(np.ones((3, 2, 2)), tmp_path / "mean.binaryproto")
    with pytest.raises(SchemaError, match=str(path)):
        load_weights(path)


def test_a_solver_state_is_no_model(tmp_path: Path) -> None:
    state = Record("SolverState", iter=3, learned_net="w.caffemodel", current_step=0)
    state.history = [make_blob(np.ones(3, np.float32))]
    path = write_binary(state, tmp_path / "s.solverstate")
    with pytest.raises(SchemaError, match=str(path)):
        load_weights(path)


@needs_shared
def test_caffes_mean_image() -> None:
    blob = read_blob(GOLDEN / "data" / "mean.binaryproto")
    assert blob.legacy
    assert len(blob.shape) == 4
    assert blob.count == np.prod(blob.shape)
    assert 0 <= blob.array().min() <= blob.array().max() <= 255


def test_text_nets_can_be_written_as_binary(tmp_path: Path) -> None:
    net = parse_text("name: 'n' layer { name: 'a' odd: 3 }", "NetParameter")
    read = read_binary(write_binary(net, tmp_path / "n.caffemodel"), "NetParameter")
    assert (read.name, read.layer[0].name) == ("n", "a")
