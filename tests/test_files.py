"""Opening with clear refusals, and writing whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from caffe_bridge.errors import SchemaError
from caffe_bridge.files import (
    atomic_path,
    atomic_write,
    looks_like_text,
    refuse_impostor,
    require_file,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_atomic_write(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_write(path) as stream:
        stream.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with atomic_write(path) as stream:
        stream.write(b"two")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["a.bin"]


def test_atomic_write_keeps_the_users_permissions(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a.bin") as stream:
            stream.write(b"x")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, error) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as stream:
        stream.write(b"half")
        raise error
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_atomic_path(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with atomic_path(path) as temporary:
        assert temporary.name == "a.h5"
        temporary.write_bytes(b"x")
        assert names(tmp_path) != ["a.h5"]
    assert path.read_bytes() == b"x"
    assert names(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("writer", [atomic_write, atomic_path])
def test_targets_that_cannot_be_written(tmp_path: Path, writer) -> None:
    with pytest.raises(SchemaError, match="cannot write there"), writer(tmp_path / "no" / "a"):
        pass
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    reason = "cannot be replaced"
    with pytest.raises(SchemaError, match=reason), writer(tmp_path / "folder") as made:
        if isinstance(made, Path):
            made.write_bytes(b"x")
    assert names(tmp_path) == ["folder"]


def test_require_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with pytest.raises(SchemaError, match=r"a\.bin: no such model file; check the path"):
        require_file(path, "model")
    path.write_bytes(b"")
    with pytest.raises(SchemaError, match="the model file is empty"):
        require_file(path, "model")
    path.write_bytes(b"x")
    assert require_file(str(path), "model") == path
    with pytest.raises(SchemaError, match="is a folder, expected a model file"):
        require_file(tmp_path, "model")
    with pytest.raises(SchemaError, match="no such model file"):
        require_file(path / "below", "model")
    with pytest.raises(SchemaError, match="cannot be opened"):
        require_file(tmp_path / ("n" * 400), "model")


def test_unreadable_files(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SchemaError, match="may not be read; change its permissions"):
        require_file(path, "model")


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer of 1 bytes"),
        (b"  \n<!doctype html>", "is a web page"),
        (b"<HTML>", "is a web page"),
        (b"\xef\xbb\xbf<?xml version", "is a web page"),
    ],
)
def test_impostors(tmp_path: Path, head: bytes, reason: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x")
    with pytest.raises(SchemaError, match=reason):
        refuse_impostor(path, head, "model")


def test_what_is_no_impostor(tmp_path: Path) -> None:
    for head in (b"name: 'x'", b"\x0a\x03abc", b"layer <", b""):
        assert refuse_impostor(tmp_path, head, "model") is None


def test_looks_like_text() -> None:
    assert looks_like_text(b"name: 'x'\r\n\t# \xc3\xa9\x1a")
    assert looks_like_text(b"")
    assert not looks_like_text(b"\x0a\x05LeNet\xa2\x06")
    assert not looks_like_text(b"a\0")
