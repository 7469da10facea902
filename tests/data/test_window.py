import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge.data import WindowSource
from caffe_bridge.errors import DataError
from caffe_bridge.graph import LayerSpec, parse_net
from caffe_bridge.schema import write_blob

PICTURES = [np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8) for i in range(2)]
TEXT = """# 0
a.png
3 20 24
4
5 0.9 2 3 11 12
6 0.5 4 4 9 15
1 0.3 0 0 5 5
1 0.49 1 1 2 2
# 1
b.png
3
20
24
1
2 0.1 10 4 20 17
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, picture in zip(("a.png", "b.png"), PICTURES, strict=True):
        assert cv2.imwrite(str(tmp_path / name), picture)
    return tmp_path


def layer(folder: Path, text: str = TEXT, more: str = "", transform: str = "") -> LayerSpec:
    (folder / "windows.txt").write_text(text)
    return parse_net(
        f'layer {{ name: "d" type: "WindowData" top: "x" top: "y" window_data_param {{ '
        f'source: "{folder}/windows.txt" root_folder: "{folder}/" {more} }} '
        f"transform_param {{ {transform or 'crop_size: 8'} }} }}"
    ).layers[0]


def only(folder: Path, box: str, more: str = "", transform: str = "") -> WindowSource:
    """A source with one object window, delivered by batches of objects only."""
    text = f"# 0\na.png\n3 20 24\n1\n4 1 {box}\n"
    return WindowSource(layer(folder, text, f"fg_fraction: 1 {more}", transform), "TRAIN")


def warped(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int]) -> np.ndarray:
    part = PICTURES[0][y1 : y2 + 1, x1 : x2 + 1]
    return cv2.resize(part, size).transpose(2, 0, 1).astype(np.float32)


def test_background_first_then_objects(folder: Path) -> None:
    source = WindowSource(layer(folder, TEXT, "bg_threshold: 0.4 fg_fraction: 0.5"), "TRAIN")
    assert source.shapes(5) == [(5, 3, 8, 8), (5,)]
    assert [w.box for w in source.objects] == [(2, 3, 11, 12), (4, 4, 9, 15)]
    assert [(w.picture, w.box) for w in source.background] == [
        (0, (0, 0, 5, 5)), (1, (10, 4, 20, 17)),
    ]  # fmt: skip
    seen = [source.next(5) for _ in range(6)]
    assert all(y[:3].tolist() == [0, 0, 0] for _, y in seen)
    assert {label for _, y in seen for label in y[3:]} == {5, 6}
    source.reset()
    np.testing.assert_array_equal(source.next(5)[0], seen[0][0])
    source.seed(3)
    assert any((source.next(5)[0] != x).any() for x, _ in seen)


def test_warp_mean_and_scale(folder: Path) -> None:
    transform = "crop_size: 8 scale: 3 mean_value: 1 mean_value: 2 mean_value: 3"
    data, label = only(folder, "2 3 11 14", "scale: 0.5", transform).next(1)
    mean = np.array([1, 2, 3]).reshape(3, 1, 1)
    np.testing.assert_array_equal(data[0], (warped(2, 3, 11, 14, (8, 8)) - mean) * 0.5)
    assert label.tolist() == [4]
    assert data.dtype == label.dtype == np.float32


def test_names_that_are_not_utf8(folder: Path) -> None:
    (folder / "a.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    spec = layer(folder, more="fg_fraction: 1")
    (folder / "windows.txt").write_bytes(b"# 0\ncaf\xe9.png\n3 20 24\n1\n4 1 2 3 11 12\n")
    data, label = WindowSource(spec, "TRAIN").next(1)
    np.testing.assert_array_equal(data[0], warped(2, 3, 11, 12, (8, 8)))
    assert label.tolist() == [4]


def test_context_inside_the_picture(folder: Path) -> None:
    # 10 x 10 from (5, 5), centre (10, 10); 8 / (8 - 2 * 1) of it reaches from 3 to 17.
    data, _ = only(folder, "5 5 14 14", "context_pad: 1").next(1)
    np.testing.assert_array_equal(data[0], warped(3, 3, 17, 17, (8, 8)))


def test_context_beyond_the_picture(folder: Path) -> None:
    # 12 x 12 from (0, 0), centre (6, 6); 12 / (12 - 2 * 3) = 2: from -6 to 18, 25 pixels; the
    # first 6 are missing: round(6 * 12 / 25) = 3 stay empty, 19 pixels fill round(9.12) = 9.
    data, _ = only(folder, "0 0 11 11", "context_pad: 3", "crop_size: 12 mean_value: 5").next(1)
    assert not data[0, :, :3].any() and not data[0, :, :, :3].any()
    np.testing.assert_array_equal(data[0, :, 3:, 3:], warped(0, 0, 18, 18, (9, 9)) - 5)


def test_square(folder: Path) -> None:
    # 4 x 10, centre (10, 10): half the larger side both ways gives 5 to 15.
    data, _ = only(folder, "8 5 11 14", 'crop_mode: "square"').next(1)
    np.testing.assert_array_equal(data[0], warped(5, 5, 15, 15, (8, 8)))


def test_mirror_mirrors_the_empty_part_too(folder: Path) -> None:
    transform = "crop_size: 12 mirror: true"
    source = only(folder, "0 4 11 15", "context_pad: 3", transform)
    # In x as above; in y centre 10, from -2 to 22: 2 missing before, 3 behind, 1 row empty each.
    inside = warped(0, 0, 18, 19, (9, 10))
    plain = np.zeros((3, 12, 12), np.float32)
    plain[:, 1:11, 3:] = inside
    flipped = np.zeros((3, 12, 12), np.float32)
    flipped[:, 1:11, :9] = inside[..., ::-1]
    data, _ = source.next(12)
    found = {tuple(np.array_equal(d, want) for want in (plain, flipped)) for d in data}
    assert found == {(True, False), (False, True)}


def test_mean_image_is_taken_from_its_middle(folder: Path) -> None:
    mean = np.random.default_rng(7).random((3, 14, 14)).astype(np.float32)
    write_blob(mean, folder / "mean.binaryproto")
    transform = f'crop_size: 12 mean_file: "{folder}/mean.binaryproto"'
    data, _ = only(folder, "0 0 11 11", "context_pad: 3 cache_images: true", transform).next(1)
    want = warped(0, 0, 18, 18, (9, 9)) - mean[:, 4:13, 4:13]
    np.testing.assert_array_equal(data[0, :, 3:, 3:], want)


@pytest.mark.parametrize(
    ("text", "more", "transform", "message"),
    [
        (TEXT, "", "scale: 1", "gives no crop_size"),
        (TEXT, "context_pad: 4", "", "context_pad 4 leaves nothing of crop_size 8"),
        (TEXT, 'crop_mode: "round"', "", "crop_mode is 'round'"),
        (TEXT, "", "crop_size: 8 mean_value: 1 mean_value: 2", "does not fit windows of 3"),
        (TEXT.replace("# 1", "# 2"), "", "", "does not hold picture 1 as '# index'"),
        (TEXT[:-3], "", "", "does not hold picture 1"),
        (TEXT.replace("3 20 24", "1 20 24"), "", "", "has 1 channels; only 3 are read"),
        (TEXT.replace("1 0.49", "0 0.6"), "", "", "classes of objects begin with 1"),
    ],
)
def test_errors(folder: Path, text: str, more: str, transform: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        WindowSource(layer(folder, text, more, transform), "TRAIN")


def test_errors_while_reading(folder: Path) -> None:
    with pytest.raises(DataError, match="has no background windows"):
        text = "# 0\na.png\n3 20 24\n1\n4 1 0 0 3 3\n"
        WindowSource(layer(folder, text, "fg_fraction: 0.5"), "TRAIN").next(2)
    with pytest.raises(DataError, match=r"window \(20, 3, 24, 9\) of 'a.png' lies outside"):
        only(folder, "20 3 24 9").next(1)
    source = only(folder, "0 0 3 3")
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png' of .*windows\.txt is missing or no picture"):
        source.next(1)
