"""LevelDB data bases (needs plyvel: ``caffe-bridge[leveldb]``)."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from caffe_bridge.data.records import (
    BYTES_PER_COMMIT,
    RECORDS_PER_COMMIT,
    Put,
    new_database,
    require_database,
)
from caffe_bridge.errors import BackendError, DataError


def _plyvel(who: str) -> Any:
    try:
        import plyvel
    except ImportError as error:
        raise BackendError(
            f"{who + ': ' if who else ''}LevelDB data bases need plyvel; "
            "run 'pip install caffe-bridge[leveldb]' or convert the data base to LMDB."
        ) from error
    return plyvel


def _mirror(folder: Path, target: Path) -> None:
    """Stand-in folder: links to the immutable tables, copies of everything LevelDB rewrites."""
    for item in folder.iterdir():
        if item.suffix in (".ldb", ".sst"):
            (target / item.name).symlink_to(item.resolve())
        elif item.is_file() and item.name not in ("LOCK", "LOG", "LOG.old"):
            shutil.copyfile(item, target / item.name)


class LeveldbReader:
    """Records in the order of their keys, round and round.

    LevelDB locks and rewrites a data base even for reading; here it works on a temporary stand-in,
    so that several nets can read one data base and a read-only one too.

    Args:
        path: the data base's folder.
        who: what to name in messages.

    Raises:
        BackendError: plyvel is not installed.
        DataError: no LevelDB data base there, a damaged or an empty one.
    """

    def __init__(self, path: str, who: str = "") -> None:
        folder = require_database(path, "leveldb", who)
        plyvel = _plyvel(who)
        prefix = f"{who}: " if who else ""
        stand_in = tempfile.mkdtemp(prefix="caffe_bridge_leveldb_")
        self._cleanup = weakref.finalize(self, shutil.rmtree, stand_in, ignore_errors=True)
        try:
            _mirror(folder, Path(stand_in))
            self._database = plyvel.DB(stand_in)
        except (OSError, plyvel.Error) as error:
            self._cleanup()
            raise DataError(
                f"{prefix}LevelDB data base '{path}' cannot be opened ({error}); write it again."
            ) from error
        self._items: Iterator[tuple[bytes, bytes]] = self._database.iterator()
        first = next(self._items, None)
        if first is None:
            self.close()
            raise DataError(f"{prefix}LevelDB data base '{path}' has no records.")
        self._ahead: tuple[bytes, bytes] = first

    def count(self) -> int | None:
        """None: LevelDB does not count."""
        return None

    def take(self) -> tuple[bytes, bytes, bool]:
        """Key and value of the next record, and whether it is the last one."""
        key, value = self._ahead
        following = next(self._items, None)
        if following is None:
            self.rewind()
        else:
            self._ahead = following
        return key, value, following is None

    def locate(self) -> tuple[bytes, bytes, bool]:
        """As :meth:`take`: LevelDB opens a data base only once."""
        return self.take()

    def value(self, key: bytes) -> bytes:
        """The value of a key.

        Raises:
            DataError: no such key.
        """
        found = self._database.get(key)
        if found is None:
            raise DataError(f"LevelDB data base has no key '{key.decode('utf-8', 'replace')}'.")
        return bytes(found)

    def skip(self) -> bool:
        """Pass over the next record; whether it was the last one."""
        return self.take()[2]

    def rewind(self) -> None:
        """Go to the first record."""
        self._items = self._database.iterator()
        self._ahead = next(self._items)

    def close(self) -> None:
        """Close the data base and delete its stand-in."""
        self._items = iter(())
        self._database.close()
        self._cleanup()


@contextmanager
def leveldb_writer(path: str | os.PathLike[str]) -> Iterator[Put]:
    """A function that puts a key and its value into a new LevelDB data base.

    The folder appears only when the block succeeds; at most :data:`BYTES_PER_COMMIT` and one record
    wait in memory.

    Raises:
        BackendError: plyvel is not installed.
        DataError: the folder exists already or cannot be made.
    """
    plyvel = _plyvel("")
    with new_database(path) as folder:
        database = plyvel.DB(os.fspath(folder), create_if_missing=True)
        batch = database.write_batch()
        count = waiting = 0

        def put(key: bytes, value: bytes) -> None:
            nonlocal batch, count, waiting
            batch.put(key, value)
            count, waiting = count + 1, waiting + len(value)
            if count == RECORDS_PER_COMMIT or waiting > BYTES_PER_COMMIT:
                batch.write()
                batch, count, waiting = database.write_batch(), 0, 0

        try:
            yield put
            batch.write()
        finally:
            database.close()


def write_leveldb(path: str | os.PathLike[str], records: Iterable[tuple[bytes, bytes]]) -> None:
    """Write a LevelDB data base; the folder appears only when it is complete.

    Raises:
        BackendError: plyvel is not installed.
        DataError: the folder exists already or cannot be made.
    """
    with leveldb_writer(path) as put:
        for key, value in records:
            put(key, value)
