from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge.data import compute_mean, decode_datum, open_records
from caffe_bridge.data.convert_imageset import ImagesetOptions, convert_imageset, read_image_list
from caffe_bridge.errors import DataError
from caffe_bridge.schema import decode, write_blob
from tests.shared import GOLDEN, needs_shared

Records = list[tuple[bytes, bytes]]
PICTURES = {"a.png": (6, 5), "b c.jpg": (6, 5), "d.png": (4, 7)}


def records(path: Path, backend: str = "lmdb") -> Records:
    reader = open_records(str(path), backend)
    found: Records = []
    last = False
    while not last:
        key, value, last = reader.take()
        found.append((bytes(key), bytes(value)))
    reader.close()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in PICTURES.items():
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 255, (*size, 3)).astype(np.uint8))
    lines = [f"{name} {label}" for label, name in enumerate(PICTURES)]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def made(folder: Path, **options: object) -> Records:
    flags = ImagesetOptions(**options)  # type: ignore[arg-type]
    convert_imageset(f"{folder}/", folder / "list.txt", folder / "db", options=flags)
    return records(folder / "db")


def test_keys_and_datums(folder: Path) -> None:
    found = made(folder)
    assert [key for key, _ in found] == [b"00000000_a.png", b"00000001_b c.jpg", b"00000002_d.png"]
    for number, (name, (_, value)) in enumerate(zip(PICTURES, found, strict=True)):
        image, label = decode_datum(value, name)
        want = cv2.imread(str(folder / name)).transpose(2, 0, 1)
        np.testing.assert_array_equal(image, want)
        assert label == number
        assert decode(value, "Datum").has("encoded")


def test_resize_and_gray(folder: Path) -> None:
    for _, value in made(folder, resize=(8, 9), gray=True, check_size=True):
        assert decode_datum(value, "")[0].shape == (1, 8, 9)


def test_encoded_keeps_the_file(folder: Path) -> None:
    for name, (_, value) in zip(PICTURES, made(folder, encoded=True), strict=True):
        datum = decode(value, "Datum")
        assert datum.data == (folder / name).read_bytes()
        assert datum.encoded
        assert not datum.has("channels")


def test_encoded_again_when_something_changes(folder: Path) -> None:
    for _, value in made(folder, encoded=True, encode_type="png", resize=(3, 2)):
        datum = decode(value, "Datum")
        assert datum.data.startswith(b"\x89PNG")
        assert decode_datum(value, "")[0].shape == (3, 3, 2)


def test_an_encode_type_alone_means_encoded(folder: Path) -> None:
    one = made(folder, encode_type="png")
    (folder / "db").rename(folder / "first")
    assert one == made(folder, encoded=True, encode_type="png")


def test_shuffle_is_seeded_and_complete(folder: Path) -> None:
    one = made(folder, shuffle=True, seed=1)
    (folder / "db").rename(folder / "first")
    assert made(folder, shuffle=True, seed=1) == one
    assert sorted(key[9:] for key, _ in one) == sorted(n.encode() for n in PICTURES)


def test_unreadable_pictures_are_left_out_and_told(folder: Path) -> None:
    (folder / "a.png").write_text("nothing")
    report = convert_imageset(f"{folder}/", folder / "list.txt", folder / "db")
    assert (report.written, report.unreadable) == (2, ["a.png"])
    assert records(folder / "db")[0][0] == b"00000001_b c.jpg"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"check_size": True}, "holds 84 values, the first 90"), ({"resize": (3, 0)}, "only one of"),
     ({"encoded": True, "encode_type": "nope"}, "cannot be written as 'nope'")],
)  # fmt: skip
def test_refusals_leave_nothing(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(folder, **options)
    assert not (folder / "db").exists()


def test_names_that_are_not_utf8(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (folder / "a.png").rename(folder / name)
    (folder / "list.txt").write_bytes(b"caf\xe9.png 3\nth\xe9.png 4\n")
    report = convert_imageset(f"{folder}/", folder / "list.txt", folder / "db")
    assert (report.written, report.unreadable) == (1, [os.fsdecode(b"th\xe9.png")])
    ((key, value),) = records(folder / "db")
    image, label = decode_datum(value, "here")
    assert (key, label) == (b"00000000_caf\xe9.png", 3)
    stored = cv2.imdecode(np.frombuffer((folder / name).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(image, stored.transpose(2, 0, 1))


def test_no_picture_at_all(folder: Path) -> None:
    with pytest.raises(DataError, match="none of its 3 pictures"):
        convert_imageset("/nowhere/", folder / "list.txt", folder / "db")


def test_bad_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png 1\nb.png x\n")
    with pytest.raises(DataError, match=r"list\.txt:2: write 'name label'"):
        read_image_list(tmp_path / "list.txt")


@needs_shared
@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "backend", "options"),
    [
        ("png_lmdb", "lmdb", ImagesetOptions()),
        ("encoded_lmdb", "lmdb", ImagesetOptions(encoded=True)),
        ("gray_leveldb", "leveldb", ImagesetOptions(gray=True)),
    ],
)
def test_equal_to_caffes_own(
    tmp_path: Path, name: str, backend: str, options: ImagesetOptions
) -> None:
    data = GOLDEN / "data"
    convert_imageset(f"{data}/", data / "list_png.txt", tmp_path / name, backend, options)
    assert records(tmp_path / name, backend) == records(data / name, backend)


@needs_shared
@pytest.mark.golden
def test_mean_file_equal_to_caffes_own(tmp_path: Path) -> None:
    write_blob(compute_mean(GOLDEN / "data" / "png_lmdb"), tmp_path / "mean")
    want = (GOLDEN / "data" / "mean.binaryproto").read_bytes()
    assert (tmp_path / "mean").read_bytes() == want
