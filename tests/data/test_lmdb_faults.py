"""LMDB data bases with damaged records or a cut-off file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from caffe_bridge.data.database import iterate
from caffe_bridge.data.datum import encode_datum
from caffe_bridge.data.lmdb import LmdbReader, write_lmdb
from caffe_bridge.errors import DataError


def records(count: int = 300) -> list[tuple[bytes, bytes]]:
    image = np.zeros((3, 16, 16), np.uint8)
    return [(b"%08d" % i, encode_datum(image + i % 200, i % 10)) for i in range(count)]


def test_a_damaged_record_is_named_with_its_data_base(tmp_path: Path) -> None:
    rows = records(4)
    rows[2] = (rows[2][0], rows[2][1][:-7])
    write_lmdb(tmp_path / "db", rows)
    with pytest.raises(DataError, match=r"db, key .*00000002"):
        list(iterate(str(tmp_path / "db"), "LMDB"))


def test_a_record_that_lmdb_cannot_read(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", records(3))
    reader = LmdbReader(str(tmp_path / "db"), "data (Data)")
    reader.take()
    real: Any = reader._cursor

    class Broken:
        key = real.key

        def value(self) -> bytes:
            raise lmdb.CorruptedError("located page was wrong type")

    reader._cursor = Broken()
    with pytest.raises(DataError, match=r"data \(Data\): .*db': the record at key '00000001' cannot"
                       r" be read .*wrong type"):  # fmt: skip
        reader.take()
    reader._cursor = real
    reader.close()


@pytest.mark.parametrize("size", [0, 512])
def test_keys_that_lmdb_does_not_take(size: int, tmp_path: Path) -> None:
    write_lmdb(tmp_path / "longest", [(b"k" * 511, b"v")])
    with pytest.raises(DataError, match=f"has {size} bytes, LMDB takes 1 to 511; shorten"):
        write_lmdb(tmp_path / "db", [(b"k", b"v"), (b"k" * size, b"v")])
    assert [path.name for path in tmp_path.iterdir()] == ["longest"]


def test_a_cut_off_file_is_refused_before_it_kills(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "db", records())
    file = tmp_path / "db" / "data.mdb"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 3)
    with pytest.raises(DataError, match=r"db' is cut off: its file has \d+ bytes of \d+"):
        LmdbReader(str(tmp_path / "db"))
