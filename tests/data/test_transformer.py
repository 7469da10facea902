from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.data import DataTransformer
from caffe_bridge.errors import DataError
from caffe_bridge.graph import parse_net
from caffe_bridge.schema import Record, write_binary, write_blob

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 3, 7, 6), np.uint8)


def transformer(text: str, phase: str = "TEST") -> DataTransformer:
    net = parse_net(f'layer {{ name: "d" type: "Data" top: "x" transform_param {{ {text} }} }}')
    return DataTransformer(net.layers[0], phase)


def run(text: str, phase: str = "TEST", images: np.ndarray = IMAGES, seed: int = 0) -> np.ndarray:
    return transformer(text, phase).transform(images, np.random.default_rng(seed))


def test_without_parameters_only_the_type_changes() -> None:
    got = run("")
    assert got.dtype == np.float32 and got.flags.c_contiguous and got.flags.writeable
    np.testing.assert_array_equal(got, IMAGES)


def test_mean_is_subtracted_before_scaling() -> None:
    np.testing.assert_allclose(
        run("scale: 0.5 mean_value: 10 mean_value: 20 mean_value: 30")[:, :, 0, 0],
        (IMAGES[:, :, 0, 0].astype(np.float64) - [10, 20, 30]) * 0.5,
    )
    np.testing.assert_array_equal(run("mean_value: 3"), IMAGES.astype(np.float32) - 3)


def test_centre_crop_rounds_to_the_top_left() -> None:
    np.testing.assert_array_equal(run("crop_size: 4"), IMAGES[:, :, 1:5, 1:5])
    np.testing.assert_array_equal(run("crop_size: 3"), IMAGES[:, :, 2:5, 1:4])


def crops(got: np.ndarray, size: int) -> list[tuple[int, int, bool]]:
    """For every item: the row, column and flip that give it."""
    found = []
    for item, image in zip(got, IMAGES, strict=True):
        places = [
            (row, column, flip)
            for row in range(8 - size)
            for column in range(7 - size)
            for flip in (False, True)
            if np.array_equal(
                item, image[:, row : row + size, column : column + size][..., :: -1 if flip else 1]
            )
        ]
        assert len(places) == 1
        found += places
    return found


def test_training_crops_at_all_places() -> None:
    places = crops(run("crop_size: 5", "TRAIN"), 5)
    assert {p[:2] for p in places} == {(r, c) for r in range(3) for c in range(2)}
    assert not any(p[2] for p in places)


def test_half_of_the_images_are_mirrored_in_both_phases() -> None:
    for phase in ("TRAIN", "TEST"):
        flips = [p[2] for p in crops(run("crop_size: 5 mirror: true", phase), 5)]
        assert 20 < sum(flips) < 44
    assert {p[:2] for p in crops(run("crop_size: 5 mirror: true", "TEST"), 5)} == {(1, 0)}


def test_draws_follow_the_seed() -> None:
    text = "crop_size: 5 mirror: true"
    np.testing.assert_array_equal(run(text, "TRAIN", seed=3), run(text, "TRAIN", seed=3))
    assert not np.array_equal(run(text, "TRAIN", seed=3), run(text, "TRAIN", seed=4))


def test_nothing_is_drawn_when_nothing_is_random() -> None:
    rng = np.random.default_rng(0)
    transformer("crop_size: 5", "TEST").transform(IMAGES, rng)
    transformer("scale: 2", "TRAIN").transform(IMAGES, rng)
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_mean_image_is_cut_where_the_image_is_and_before_the_flip(
    tmp_path: Path, phase: str
) -> None:
    path = tmp_path / "mean.binaryproto"
    write_blob(np.arange(126, dtype=np.float32).reshape(3, 7, 6) * 1000, path)
    text = "crop_size: 4 mirror: true"
    got = run(f'{text} mean_file: "{path}"', phase)
    mean = np.arange(126, dtype=np.float32).reshape(1, 3, 7, 6) * 1000
    want = run(text, phase, IMAGES.astype(np.float32) - mean)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_a_list_of_images_gives_what_an_array_gives(phase: str) -> None:
    text = "crop_size: 4 mirror: true mean_value: 7 scale: 0.1"
    made = transformer(text, phase).transform(list(IMAGES), np.random.default_rng(0))
    np.testing.assert_array_equal(made, run(text, phase))


def test_sizes_may_differ_when_cropped() -> None:
    images = [np.full((1, 4 + i, 5 + i), i, np.uint8) for i in range(3)]
    got = transformer("crop_size: 4", "TRAIN").transform(images, np.random.default_rng(0))
    assert got.shape == (3, 1, 4, 4)
    np.testing.assert_array_equal(got[:, 0, 0, 0], [0, 1, 2])
    with pytest.raises(DataError, match=r"\(1, 4, 5\), \(1, 5, 6\).*batch_size 1"):
        transformer("").transform(images[:2], np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crop_size: 7", "crop_size 7 is larger than an image of 7 x 6"),
        ("mean_value: 1 mean_value: 2", "gives 2 mean_value for images of 3 channels; give 1 or 3"),
        ('mean_value: 1 mean_file: "m"', "both mean_file and mean_value"),
        ("force_color: true force_gray: true", "contradict each other"),
        ('mean_file: "gone"', "mean_file: gone: no such binaryproto file"),
        ("crop_h: 3", "crop_h is a fork's and not supported"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        run(text)
    assert str(error.value).startswith("d (Data) at <text>:1: ")


def test_images_of_one_batch_that_do_not_fit_each_other() -> None:
    gray, color = np.zeros((1, 7, 6), np.uint8), np.zeros((3, 7, 6), np.uint8)
    rng = np.random.default_rng(0)
    for text in ("", "crop_size: 4"):
        with pytest.raises(DataError, match="equally many channels: force_color or force_gray"):
            transformer(text).transform([gray, color], rng)
    with pytest.raises(DataError, match=r"\(3, 6, 6\), \(3, 7, 6\); use crop_size"):
        transformer("").transform([color[:, 1:], color], rng)


def test_a_mean_file_without_values(tmp_path: Path) -> None:
    write_binary(Record("BlobProto", num=1, channels=3, height=7, width=6), tmp_path / "m")
    with pytest.raises(DataError, match=r"m holds no values; write it with compute_mean"):
        run(f'mean_file: "{tmp_path / "m"}"')


def test_mean_image_must_have_the_size_of_the_images(tmp_path: Path) -> None:
    write_blob(np.zeros((3, 7, 7), np.float32), tmp_path / "m")
    with pytest.raises(DataError, match=r"\(3, 7, 7\), an image has \(3, 7, 6\)"):
        run(f'mean_file: "{tmp_path / "m"}"')
    write_blob(np.zeros((2, 3, 7, 6), np.float32), tmp_path / "two")
    with pytest.raises(DataError, match=r"shape \(2, 3, 7, 6\), expected one image"):
        run(f'mean_file: "{tmp_path / "two"}"')
