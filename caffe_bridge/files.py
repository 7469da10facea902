"""Opening files with clear refusals, and writing them whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from caffe_bridge.errors import SchemaError

LFS_MAGIC = b"version https://git-lfs.github.com/spec/"
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_CONTROL = set(range(32)) - set(b"\t\n\v\f\r\x1a\x1b")
_BOM = b"\xef\xbb\xbf"


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
        _replace(Path(name), target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` for libraries that open files themselves.

    Raises:
        SchemaError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    try:
        made = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise SchemaError(f"{target}: cannot write there ({error.strerror}).") from error
    with made as folder:
        temporary = Path(folder) / target.name
        yield temporary
        _replace(temporary, target)


@contextmanager
def atomic_paths(paths: Sequence[str | os.PathLike[str]]) -> Iterator[list[Path]]:
    """Yield temporary paths for files of one folder that belong together.

    When the block succeeds all are written to the disk, then renamed in the order given: the last
    name appears only when the others are in place.

    Raises:
        SchemaError: the folder does not exist or cannot be written.
    """
    targets = [Path(path) for path in paths]
    try:
        made = tempfile.TemporaryDirectory(dir=targets[0].parent, prefix=f".{targets[0].name}.")
    except OSError as error:
        raise SchemaError(f"{targets[0]}: cannot write there ({error.strerror}).") from error
    with made as folder:
        temporary = [Path(folder) / target.name for target in targets]
        yield temporary
        for path in temporary:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        for path, target in zip(temporary, targets, strict=True):
            _replace(path, target)


def _replace(made: Path, target: Path) -> None:
    try:
        made.replace(target)
    except OSError as error:
        raise SchemaError(f"{target}: cannot be replaced ({error.strerror}).") from error


def require_file(path: str | os.PathLike[str], what: str) -> Path:
    """The path, if it is a readable, non-empty file.

    Raises:
        SchemaError: missing, a folder, empty or unreadable; says which.
    """
    found = Path(path)
    try:
        status = found.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise SchemaError(f"{found}: no such {what} file; check the path.") from None
    except OSError as error:
        raise SchemaError(f"{found}: cannot be opened ({error.strerror}).") from None
    if stat.S_ISDIR(status.st_mode):
        raise SchemaError(f"{found}: is a folder, expected {_article(what)} {what} file.")
    if status.st_size == 0:
        raise SchemaError(f"{found}: the {what} file is empty; download or write it again.")
    if not os.access(found, os.R_OK):
        raise SchemaError(f"{found}: the {what} file may not be read; change its permissions.")
    return found


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeioAEIO" else "a"


def looks_like_text(head: bytes) -> bool:
    """Whether the first bytes of a file have none of the control characters of binary files."""
    return not set(head) & _CONTROL


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
    start = head.removeprefix(_BOM).lstrip()[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        raise SchemaError(
            f"{path}: is a web page, not {_article(what)} {what}; the download gave an HTML page "
            "(a login or error page?), fetch the file again."
        )
