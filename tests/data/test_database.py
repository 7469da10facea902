from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge.data import (
    DatabaseSource,
    compute_mean,
    database,
    encode_datum,
    iterate,
    open_records,
    write_datums,
    write_lmdb,
)
from caffe_bridge.errors import BackendError, DataError
from caffe_bridge.graph import LayerSpec, parse_net
from caffe_bridge.schema import Record, encode

BACKENDS = ["lmdb", "leveldb"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "leveldb":
        pytest.importorskip("plyvel")
    return str(request.param)


def data_layer(path: Path | str, backend: str = "lmdb", more: str = "") -> LayerSpec:
    text = (
        'layer { name: "d" type: "Data" top: "x" top: "y" data_param { batch_size: 2 '
        f'source: "{path}" backend: {backend.upper()} }} {more} }}'
    )
    return parse_net(text).layers[0]


def images(count: int = 5, shape: tuple[int, ...] = (2, 3, 4)) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)


def test_round_trip_in_the_order_of_the_keys(tmp_path: Path, backend: str) -> None:
    x = images(12)
    write_datums(tmp_path / "db", x, range(12), backend)
    got = list(iterate(str(tmp_path / "db"), backend))
    assert [label for _image, label in got] == list(range(12))
    np.testing.assert_array_equal(np.stack([image for image, _label in got]), x)
    assert [p.name for p in tmp_path.iterdir()] == ["db"]


def test_keys_have_eight_digits(tmp_path: Path, backend: str) -> None:
    write_datums(tmp_path / "db", images(2), [0, 1], backend)
    reader = open_records(str(tmp_path / "db"), backend)
    assert [reader.take()[0] for _ in range(3)] == [b"00000000", b"00000001", b"00000000"]
    reader.close()


def test_batches_go_round_the_end(tmp_path: Path, backend: str) -> None:
    x = images(5)
    write_datums(tmp_path / "db", x, range(5), backend)
    source = DatabaseSource(data_layer(tmp_path / "db", backend), "TEST")
    assert source.shapes(3) == [(3, 2, 3, 4), (3,)]
    seen = np.concatenate([source.next(3)[1] for _ in range(5)])
    np.testing.assert_array_equal(seen, np.arange(15) % 5)
    data, labels = source.next(3)
    np.testing.assert_array_equal(data, x[[0, 1, 2]].astype(np.float32))
    assert data.dtype == labels.dtype == np.float32 and data.flags.c_contiguous
    source.close()


@pytest.mark.parametrize("batches", [0, 1, 4])
def test_reset_starts_again(tmp_path: Path, backend: str, batches: int) -> None:
    write_datums(tmp_path / "db", images(5), range(5), backend)
    source = DatabaseSource(data_layer(tmp_path / "db", backend), "TEST")
    for _ in range(batches):
        source.next(2)
    source.reset()
    assert np.concatenate([source.next(4)[1] for _ in range(2)]).tolist() == [
        0, 1, 2, 3, 4, 0, 1, 2,
    ]  # fmt: skip
    source.close()


def test_large_data_bases_are_read_each_time_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_datums(tmp_path / "db", images(5, (1, 6, 6)), range(5))
    layer = data_layer(tmp_path / "db", more="transform_param { crop_size: 3 mirror: true }")
    small = DatabaseSource(layer, "TRAIN")
    monkeypatch.setattr(database, "CACHE_BYTES", 100)
    large = DatabaseSource(layer, "TRAIN")
    assert large.slow and not small.slow
    for _ in range(6):
        for mine, theirs in zip(small.next(3), large.next(3), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_pictures_of_different_size_are_cropped_from_memory_too(tmp_path: Path) -> None:
    records, want = [], []
    for number, size in enumerate((4, 6, 7)):
        image = images(1, (size, size, 3))[0]
        data = cv2.imencode(".png", image)[1].tobytes()
        records.append((b"%08d" % number, encode(Record("Datum", encoded=True, data=data))))
        at = (size - 4) // 2
        want.append(image.transpose(2, 0, 1)[:, at : at + 4, at : at + 4])
    write_lmdb(tmp_path / "db", records)
    source = DatabaseSource(
        data_layer(tmp_path / "db", more="transform_param{crop_size: 4}"), "TEST"
    )
    for _ in range(2):
        np.testing.assert_array_equal(source.next(3)[0], np.stack(want))


def test_two_readers_of_one_data_base(tmp_path: Path, backend: str) -> None:
    write_datums(tmp_path / "db", images(3), range(3), backend)
    before = sorted(p.name for p in (tmp_path / "db").iterdir())
    one, two = (open_records(str(tmp_path / "db"), backend) for _ in range(2))
    assert one.take()[0] == b"00000000" and one.take()[0] == b"00000001"
    assert two.take()[0] == b"00000000"
    one.close()
    assert two.take() == (b"00000001", encode_datum(images(3)[1], 1), False)
    two.close()
    assert sorted(p.name for p in (tmp_path / "db").iterdir()) == before


def test_lmdb_grows_beyond_its_first_size(tmp_path: Path) -> None:
    value = bytes(1 << 20)
    write_lmdb(tmp_path / "db", ((b"%08d" % i, value) for i in range(80)))
    assert open_records(str(tmp_path / "db"), "lmdb").count() == 80


def test_mean_is_that_of_the_images(tmp_path: Path, backend: str) -> None:
    x = images(7)
    write_datums(tmp_path / "db", x, range(7), backend)
    mean = compute_mean(tmp_path / "db", backend)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-6)


def test_mean_needs_equal_sizes(tmp_path: Path) -> None:
    shapes = [(1, 2, 2), (1, 2, 3)]
    write_lmdb(
        tmp_path / "db",
        [(b"%d" % i, encode_datum(np.zeros(s, np.uint8))) for i, s in enumerate(shapes)],
    )
    with pytest.raises(DataError, match=r"image 1 has shape \(1, 2, 3\), the first has"):
        compute_mean(tmp_path / "db")


def test_nothing_is_left_of_a_failed_write(tmp_path: Path, backend: str) -> None:
    def labels() -> list[int]:
        return [0, 1, 2]

    x = images(3).astype(object)
    x[2, 0, 0, 0] = "not a number"
    with pytest.raises(ValueError, match="could not convert"):
        write_datums(tmp_path / "db", x, labels(), backend)
    assert list(tmp_path.iterdir()) == []


def test_existing_folders_are_not_overwritten(tmp_path: Path, backend: str) -> None:
    (tmp_path / "db").mkdir()
    with pytest.raises(DataError, match="exists already"):
        write_datums(tmp_path / "db", images(1), [0], backend)
    with pytest.raises(DataError, match=r"folder .*/no' does not exist"):
        write_datums(tmp_path / "no" / "db", images(1), [0], backend)


def test_writing_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shape \(2, 2, 3, 4\) and 3 labels"):
        write_datums(tmp_path / "db", images(2), [0, 1, 2])
    with pytest.raises(DataError, match="backend 'sqlite' is not known"):
        write_datums(tmp_path / "db", images(1), [0], "sqlite")


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    write_datums(tmp_path / "db", images(1), [0])
    (tmp_path / "empty").mkdir()
    write_lmdb(tmp_path / "none", [])
    for path, backend, message in (
        ("db", "leveldb", "is an LMDB data base, read as LEVELDB; say 'backend: LMDB'"),
        ("away", "lmdb", r"no LMDB data base at '.*/away'; write it first"),
        ("empty", "lmdb", r"has no file data\.mdb"),
        ("none", "lmdb", "has no records"),
    ):
        with pytest.raises(DataError, match=message) as error:
            DatabaseSource(data_layer(tmp_path / path, backend), "TEST")
        assert str(error.value).startswith("d (Data) at <text>:1: ")
    with pytest.raises(DataError, match=r"gives no data_param\.source"):
        DatabaseSource(data_layer(""), "TEST")
    with pytest.raises(DataError, match="backend 'sqlite' is not known"):
        open_records(str(tmp_path / "db"), "sqlite")


def test_damaged_files_and_records_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"x" * 8192)
    with pytest.raises(DataError, match="cannot be opened"):
        open_records(str(tmp_path / "bad"), "lmdb")
    write_lmdb(tmp_path / "db", [(b"key7", b"\xff")])
    with pytest.raises(DataError, match=r"d \(Data\).*db, key key7: not a whole Datum"):
        DatabaseSource(data_layer(tmp_path / "db"), "TEST")


def test_damaged_and_empty_leveldb(tmp_path: Path) -> None:
    plyvel = pytest.importorskip("plyvel")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "CURRENT").write_text("nothing")
    with pytest.raises(DataError, match="cannot be opened"):
        open_records(str(tmp_path / "bad"), "leveldb")
    plyvel.DB(str(tmp_path / "none"), create_if_missing=True).close()
    with pytest.raises(DataError, match="has no records"):
        open_records(str(tmp_path / "none"), "leveldb")


def test_without_plyvel_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "CURRENT").touch()
    monkeypatch.setitem(__import__("sys").modules, "plyvel", None)
    with pytest.raises(BackendError, match=r"caffe-bridge\[leveldb\]"):
        open_records(str(tmp_path), "leveldb")
