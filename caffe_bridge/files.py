"""Opening files with clear refusals, and writing them whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from caffe_bridge.errors import SchemaError

LFS_MAGIC = b"version https://git-lfs.github.com/spec/"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``; rename it to ``path`` when the block succeeds.

    Raises:
        SchemaError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise SchemaError(f"{target}: cannot write there ({error.strerror}).") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` for libraries that open files themselves."""
    target = Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        temporary = Path(folder) / target.name
        yield temporary
        temporary.replace(target)


def require_file(path: str | os.PathLike[str], what: str) -> Path:
    """The path, if it is a readable, non-empty file.

    Raises:
        SchemaError: missing, a folder, or empty; says which.
    """
    found = Path(path)
    if found.is_dir():
        raise SchemaError(f"{found}: is a folder, expected a {what} file.")
    if not found.exists():
        raise SchemaError(f"{found}: no such {what} file; check the path.")
    if found.stat().st_size == 0:
        raise SchemaError(f"{found}: the {what} file is empty; download or write it again.")
    return found


def refuse_impostor(path: Path, head: bytes, what: str) -> None:
    """Refuse files that commonly stand where a ``what`` file should be.

    Raises:
        SchemaError: Git-LFS pointer or web page.
    """
    if head.startswith(LFS_MAGIC):
        raise SchemaError(
            f"{path}: is a Git-LFS pointer of {path.stat().st_size} bytes, not the {what} itself; "
            "run 'git lfs pull' in its repository or download the real file."
        )
    start = head.lstrip()[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        raise SchemaError(
            f"{path}: is a web page, not a {what}; the download gave an HTML page "
            "(a login or error page?), fetch the file again."
        )
