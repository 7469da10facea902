"""LMDB data bases as Caffe's tools write them: one folder with ``data.mdb``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb

from caffe_bridge.data.records import (
    BYTES_PER_COMMIT,
    MARKER,
    RECORDS_PER_COMMIT,
    Put,
    new_database,
    require_database,
)
from caffe_bridge.errors import DataError

_FIRST_MAP_BYTES = 1 << 26
#: The last pages may have been freed before they were written.
_UNWRITTEN_BYTES = 1 << 16
#: Open data bases by real path: LMDB allows each only once in a process (train and test net).
_OPEN: WeakValueDictionary[str, lmdb.Environment] = WeakValueDictionary()


def _environment(folder: str, who: str) -> Any:
    key = os.path.realpath(folder)
    found = _OPEN.get(key)
    if found is None:
        try:
            found = lmdb.open(key, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise DataError(
                f"{who + ': ' if who else ''}LMDB data base '{folder}' cannot be opened ({error}); "
                "write it again."
            ) from error
        _OPEN[key] = found
    return found


class LmdbReader:
    """Records in the order of their keys, round and round. Nothing is written or locked.

    Args:
        path: the data base's folder.
        who: what to name in messages.

    Raises:
        DataError: no LMDB data base there, or an empty one.
    """

    def __init__(self, path: str, who: str = "") -> None:
        require_database(path, "lmdb", who)
        self._path, self._who = path, f"{who}: " if who else ""
        self._environment = _environment(path, who)
        self._refuse_truncated()
        self._count = int(self._environment.stat()["entries"])
        if not self._count:
            raise DataError(f"{who + ': ' if who else ''}LMDB data base '{path}' has no records.")
        self._transaction = self._environment.begin()
        self._cursor = self._transaction.cursor()
        self.rewind()

    def _refuse_truncated(self) -> None:
        """Reading a page beyond the end of the file would kill the process."""
        size = (Path(self._path) / MARKER["lmdb"]).stat().st_size
        needed = self._environment.info()["last_pgno"] * self._environment.stat()["psize"]
        if size < needed - _UNWRITTEN_BYTES:
            raise DataError(
                f"{self._who}LMDB data base '{self._path}' is cut off: its file has {size} bytes "
                f"of {needed}; copy or write it again."
            )

    def count(self) -> int | None:
        """Number of records."""
        return self._count

    def take(self) -> tuple[bytes, bytes, bool]:
        """Key and value of the next record, and whether it is the last one.

        Raises:
            DataError: the record cannot be read; names data base and key.
        """
        key = b""
        try:
            key = bytes(self._cursor.key())
            return key, self._cursor.value(), self.skip()
        except lmdb.Error as error:
            raise self._unreadable(key, str(error)) from error

    def _unreadable(self, key: bytes, reason: str) -> DataError:
        return DataError(
            f"{self._who}LMDB data base '{self._path}': the record at key "
            f"'{key.decode('utf-8', 'replace')}' cannot be read ({reason}); write it again."
        )

    def locate(self) -> tuple[bytes, None, bool]:
        """Key of the next record, and whether it is the last one.

        Raises:
            DataError: the key cannot be read.
        """
        key = b""
        try:
            key = bytes(self._cursor.key())
            return key, None, self.skip()
        except lmdb.Error as error:
            raise self._unreadable(key, str(error)) from error

    def value(self, key: bytes) -> bytes:
        """The value of a key.

        Raises:
            DataError: the record cannot be read, or is gone; names data base and key.
        """
        try:
            found = self._transaction.get(key)
        except lmdb.Error as error:
            raise self._unreadable(key, str(error)) from error
        if found is None:
            raise self._unreadable(key, "it is gone")
        return bytes(found)

    def skip(self) -> bool:
        """Pass over the next record; whether it was the last one."""
        last = not self._cursor.next()
        if last:
            self._cursor.first()
        return last

    def rewind(self) -> None:
        """Go to the first record."""
        self._cursor.first()

    def close(self) -> None:
        """Let go of the data base; it closes with its last reader."""
        self._cursor.close()
        self._transaction.abort()
        self._environment = None


def _commit(environment: Any, pending: list[tuple[bytes, bytes]]) -> None:
    """Put the records in one transaction, again with a larger map when it does not fit."""
    while pending:
        with suppress(lmdb.MapFullError):
            with environment.begin(write=True) as transaction:
                for key, value in pending:
                    transaction.put(key, value)
            pending.clear()
            return
        environment.set_mapsize(2 * environment.info()["map_size"])


@contextmanager
def lmdb_writer(path: str | os.PathLike[str]) -> Iterator[Put]:
    """A function that puts a key and its value into a new LMDB data base.

    The folder appears only when the block succeeds; at most :data:`BYTES_PER_COMMIT` and one record
    wait in memory.

    Raises:
        DataError: the folder exists already or cannot be made; (from the function) a key that LMDB
            does not take.
    """
    with (
        new_database(path) as folder,
        lmdb.open(str(folder), map_size=_FIRST_MAP_BYTES, sync=False, metasync=False) as made,
    ):
        pending: list[tuple[bytes, bytes]] = []
        waiting = 0
        longest = made.max_key_size()

        def put(key: bytes, value: bytes) -> None:
            nonlocal waiting
            if not 0 < len(key) <= longest:
                shown = key[:40].decode("utf-8", "replace")
                raise DataError(
                    f"'{path}': the key '{shown}...' has {len(key)} bytes, LMDB takes 1 to "
                    f"{longest}; shorten it, or write a LevelDB data base."
                )
            pending.append((key, value))
            waiting += len(value)
            if len(pending) == RECORDS_PER_COMMIT or waiting > BYTES_PER_COMMIT:
                _commit(made, pending)
                waiting = 0

        yield put
        _commit(made, pending)
        made.sync(True)


def write_lmdb(path: str | os.PathLike[str], records: Iterable[tuple[bytes, bytes]]) -> None:
    """Write an LMDB data base; the folder appears only when it is complete.

    Args:
        path: folder to make.
        records: keys (Caffe's tools write ``b"%08d"``) and values; readers see them by key.

    Raises:
        DataError: the folder exists already or cannot be made, or a key that LMDB does not take.
    """
    with lmdb_writer(path) as put:
        for key, value in records:
            put(key, value)
