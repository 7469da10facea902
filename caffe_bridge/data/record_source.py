"""What the sources of all data bases of records have in common."""

from __future__ import annotations

from typing import Any

from caffe_bridge.data.leveldb import LeveldbReader
from caffe_bridge.data.lmdb import LmdbReader
from caffe_bridge.data.records import RecordReader
from caffe_bridge.data.source import PlannedSource
from caffe_bridge.errors import UnsupportedDataError
from caffe_bridge.graph import LayerSpec

#: A record of a plan: its key, and its value where other processes cannot get it.
Located = tuple[bytes, bytes | None]
_READERS: dict[str, type[LmdbReader] | type[LeveldbReader]] = {
    "lmdb": LmdbReader, "leveldb": LeveldbReader,
}  # fmt: skip


def open_records(path: str, backend: str, who: str = "") -> RecordReader:
    """Open a data base for reading.

    Args:
        path: its folder.
        backend: ``lmdb`` or ``leveldb``, in any case.
        who: what to name in messages.

    Raises:
        DataError: unknown backend, or nothing readable there.
        BackendError: the backend's library is not installed.
    """
    reader = _READERS.get(backend.lower())
    if reader is None:
        raise UnsupportedDataError(
            f"{who + ': ' if who else ''}backend '{backend}' is not known; use LMDB or LEVELDB."
        )
    return reader(path, who)


class RecordSource(PlannedSource):
    """Records of an LMDB or LevelDB in the order of the keys.

    Args:
        spec: a layer with ``data_param``.

    Raises:
        DataError: no such data base.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.path = str(spec.record.data_param.source)
        if not self.path:
            self.fail("gives no data_param.source; name the folder of the data base there.")
        self._open: RecordReader | None = None
        self._at = 0

    @property
    def reader(self) -> RecordReader:
        """The data base, opened when it is first used, and anew in another process."""
        if self._open is None:
            self._open = open_records(
                self.path, self.spec.record.data_param.backend, self.spec.label()
            )
        return self._open

    def where(self, key: bytes) -> str:
        """What to name in messages about a record."""
        return f"{self.spec.label()}: {self.path}, key {key.decode('utf-8', 'replace')}"

    def locate(self, batch: int) -> list[Located]:
        """The next records of this process; goes on to those after them."""
        records: list[Located] = []
        for item in range(batch * self.ranks):
            if item % self.ranks == self.rank:
                key, value, last = self.reader.locate()
                records.append((key, value))
            else:
                last = self.reader.skip()
            self.advance(last)
        return records

    def advance(self, last: bool) -> None:
        """Count a record that was read."""
        self._at = 0 if last else self._at + 1

    def value(self, record: Located) -> bytes:
        """The value of a located record."""
        key, value = record
        return self.reader.value(key) if value is None else value

    def rewind(self) -> None:
        """Go to the first record."""
        self._at = 0
        self.reader.rewind()

    def state(self) -> dict[str, Any]:
        """Number of records since the first one, and the draws."""
        return {**super().state(), "at": self._at}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to that record."""
        super().set_state(state)
        self.rewind()
        for _ in range(int(state["at"])):
            self.advance(self.reader.skip())

    def __getstate__(self) -> dict[str, Any]:
        """Without the open data base."""
        return {**self.__dict__, "_open": None}

    def close(self) -> None:
        """Close the data base."""
        if self._open is not None:
            self._open.close()
