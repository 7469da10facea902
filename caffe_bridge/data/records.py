"""Key-value data bases: what a reader offers, and making one whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from caffe_bridge.errors import DataError
from caffe_bridge.files import atomic_path

#: Puts a key and its value into a data base.
Put = Callable[[bytes, bytes], None]
#: Writers commit after so many records, as Caffe's tools do, or after so many bytes of values.
RECORDS_PER_COMMIT = 1000
BYTES_PER_COMMIT = 32 << 20
MARKER = {"lmdb": "data.mdb", "leveldb": "CURRENT"}


class RecordReader(Protocol):
    """Reads the records of a data base in the order of their keys, round and round."""

    def count(self) -> int | None:
        """Number of records, None when it is not known without reading them all."""

    def take(self) -> tuple[bytes, bytes, bool]:
        """Key and value of the next record, and whether it is the last before the first again."""

    def locate(self) -> tuple[bytes, bytes | None, bool]:
        """As :meth:`take`, but no value where :meth:`value` finds it by the key."""

    def value(self, key: bytes) -> bytes:
        """The value of a key that :meth:`locate` gave without one."""

    def skip(self) -> bool:
        """Pass over the next record; whether it was the last one."""

    def rewind(self) -> None:
        """Go to the first record."""

    def close(self) -> None:
        """Let go of the files."""


def detect_backend(path: str) -> str | None:
    """``lmdb`` or ``leveldb`` by the files in the folder, None when it is neither."""
    folder = Path(path)
    return next((name for name, file in MARKER.items() if (folder / file).is_file()), None)


def require_database(path: str, backend: str, who: str = "") -> Path:
    """The folder, if it holds a data base of that kind.

    Raises:
        DataError: missing, no data base, or one of the other kind.
    """
    prefix = f"{who}: " if who else ""
    folder = Path(path)
    if path and not folder.exists():
        raise DataError(
            f"{prefix}no {backend.upper()} data base at '{path}'; write it first or correct the "
            f"source (relative paths count from {Path.cwd()})."
        )
    found = detect_backend(path) if path else None
    if found == backend:
        return folder
    if found:
        raise DataError(
            f"{prefix}'{path}' is an {found.upper()} data base, read as {backend.upper()}; "
            f"say 'backend: {found.upper()}'."
        )
    raise DataError(
        f"{prefix}'{path}' is no {backend.upper()} data base (it has no file {MARKER[backend]}); "
        "the source must be the folder that holds it."
    )


@contextmanager
def new_database(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its name when the block succeeds.

    Raises:
        DataError: ``path`` exists already, or its parent folder does not.
    """
    target = Path(path)
    if target.exists():
        raise DataError(f"'{path}' exists already; delete it or choose another name.")
    if not target.parent.is_dir():
        raise DataError(f"'{path}': the folder '{target.parent}' does not exist; make it first.")
    with atomic_path(target) as temporary:
        temporary.mkdir()
        yield temporary
