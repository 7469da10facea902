import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge.data import ImageListSource
from caffe_bridge.data.datum import read_picture
from caffe_bridge.errors import DataError
from caffe_bridge.graph import LayerSpec, parse_net

NAMES = ["a.png", "b c.png", "d.png", "e.png"]


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        assert cv2.imwrite(str(tmp_path / name), picture(number))
    lines = [f"{name} {10 + number}" for number, name in enumerate(NAMES)]
    (tmp_path / "list.txt").write_text("\n".join(lines[:2]) + "\n\n" + "\r\n".join(lines[2:]) + " ")
    return tmp_path


def layer(folder: Path, more: str = "", name: str = "list.txt") -> LayerSpec:
    text = (
        'layer { name: "d" type: "ImageData" top: "x" top: "y" image_data_param { '
        f'source: "{folder / name}" root_folder: "{folder}/" {more} }} }}'
    )
    return parse_net(text).layers[0]


def labels(source: ImageListSource, batches: int, batch: int = 2) -> list[int]:
    return [int(v) for _ in range(batches) for v in source.next(batch)[1]]


def test_pictures_are_bgr_planes_in_the_order_of_the_list(folder: Path) -> None:
    source = ImageListSource(layer(folder), "TEST")
    assert source.shapes(3) == [(3, 3, 6, 8), (3,)]
    data, y = source.next(6)
    np.testing.assert_array_equal(y, [10, 11, 12, 13, 10, 11])
    np.testing.assert_array_equal(data[1], picture(1).transpose(2, 0, 1))
    assert data.dtype == np.float32 and data.flags.c_contiguous


def test_gray_and_resized_as_opencv_does(folder: Path) -> None:
    source = ImageListSource(layer(folder, "is_color: false new_height: 3 new_width: 5"), "TEST")
    assert source.shapes(1)[0] == (1, 1, 3, 5)
    gray = cv2.imread(str(folder / "a.png"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(source.next(1)[0][0, 0], cv2.resize(gray, (5, 3)))


def test_shuffling_is_anew_at_each_pass_and_repeats_after_reset(folder: Path) -> None:
    source = ImageListSource(layer(folder, "shuffle: true"), "TRAIN")
    source.seed(5)
    first = labels(source, 10)
    passes = [first[i : i + 4] for i in range(0, 20, 4)]
    assert all(sorted(p) == [10, 11, 12, 13] for p in passes)
    assert len({tuple(p) for p in passes}) > 1
    source.reset()
    assert labels(source, 10) == first
    source.seed(6)
    assert labels(source, 10) != first


def test_rand_skip_starts_somewhere_in_the_list(folder: Path) -> None:
    source = ImageListSource(layer(folder, "rand_skip: 4"), "TRAIN")
    starts = set()
    for seed in range(20):
        source.seed(seed)
        starts.add(labels(source, 1, 1)[0])
    assert starts == {10, 11, 12, 13}


def test_rand_skip_beyond_the_list_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"rand_skip drew \d+, the list has 4 items"):
        ImageListSource(layer(folder, "rand_skip: 100000"), "TRAIN")


def test_a_name_alone_has_label_0(folder: Path) -> None:
    (folder / "names.txt").write_text("a.png\nd.png\n")
    assert labels(ImageListSource(layer(folder, name="names.txt"), "TEST"), 1) == [0, 0]


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("", "", "is empty"),
        (None, "", r"cannot be read \(No such file"),
        ("a.png cat", "", "line 'a.png cat' .* does not end in an integer label"),
        ("z.png 1", "", r"z\.png' of .* does not exist"),
        ("list.txt 1", "", r"list\.txt' of .* is no picture"),
        ("a.png 1", "new_height: 3", "only one of new_height and new_width"),
        ("a.png 1", "min_height: 3", "min_height is a fork's"),
    ],
)
def test_what_cannot_be_read_is_named(
    folder: Path, content: str | None, more: str, message: str
) -> None:
    if content is not None:
        (folder / "bad.txt").write_text(content)
    with pytest.raises(DataError, match=message) as error:
        ImageListSource(layer(folder, more, "bad.txt"), "TEST")
    assert str(error.value).startswith("d (ImageData) at <text>:1: ")


def test_names_that_are_not_utf8(folder: Path) -> None:
    (folder / "a.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    (folder / "bad.txt").write_bytes(b"caf\xe9.png 3\n")
    data, _label = ImageListSource(layer(folder, "", "bad.txt"), "TEST").next(1)
    np.testing.assert_array_equal(data[0], picture(0).transpose(2, 0, 1))


def test_pictures_cut_off_are_the_same_under_any_name(folder: Path) -> None:
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (60, 60, 3)))[1]
    name = folder / os.fsdecode(b"caf\xe9.jpg")
    for path in (name, folder / "cafe.jpg"):
        path.write_bytes(whole.tobytes()[: len(whole) // 2])
    read = read_picture(name, cv2.IMREAD_COLOR)
    assert read is not None
    np.testing.assert_array_equal(read, cv2.imread(str(folder / "cafe.jpg"), cv2.IMREAD_COLOR))


def test_folders_and_empty_files_are_no_pictures(folder: Path) -> None:
    (folder / "empty.png").touch()
    assert read_picture(folder / "empty.png", cv2.IMREAD_COLOR) is None
    assert read_picture(folder, cv2.IMREAD_COLOR) is None
    assert read_picture(folder / "z.png", cv2.IMREAD_COLOR) is None


def test_sixteen_bit_pictures_become_eight_bit(folder: Path) -> None:
    assert cv2.imwrite(str(folder / "a.png"), np.full((6, 8), 0x1234, np.uint16))
    source = ImageListSource(layer(folder), "TEST")
    np.testing.assert_array_equal(source.next(1)[0], np.full((1, 3, 6, 8), 0x12))


def test_without_a_source_the_field_is_named() -> None:
    net = parse_net('layer { name: "d" type: "ImageData" top: "x" top: "y" }')
    with pytest.raises(DataError, match=r"gives no image_data_param\.source"):
        ImageListSource(net.layers[0], "TEST")
