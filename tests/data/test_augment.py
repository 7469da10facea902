"""SSD's augmentations, with draws that are given or repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from caffe_bridge.data import AnnotatedSource, Prefetched
from caffe_bridge.data.augment import (
    Distortion,
    Sample,
    draw_box,
    draw_samples,
    expand,
    linear,
    sample_crop,
    satisfies,
    through_jpeg,
)
from caffe_bridge.data.resize import new_size, resize_image
from caffe_bridge.schema import Record, parse_text
from tests.data.test_annotated import PICTURES, database, datum, layer


class Given(np.random.Generator):
    """A generator whose shares are given."""

    def __init__(self, *shares: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.shares = list(shares)

    def random(self, *_args: Any, **_more: Any) -> Any:
        return self.shares.pop(0)

    def integers(self, low: Any, *_args: Any, **_more: Any) -> Any:
        return int(self.shares.pop(0) * low)


def record(kind: str, text: str) -> Record:
    return parse_text(text, kind)


def sample(rows: list[tuple[float, ...]], encoded: bool = True) -> Sample:
    image = np.random.default_rng(1).integers(0, 256, (8, 16, 3), np.uint8)
    return Sample(image, np.array(rows, np.float32).reshape(-1, 7), encoded, "here")


def test_linear_rounds_and_saturates() -> None:
    values = np.array([0, 1, 3, 200, 255], np.uint8)
    np.testing.assert_array_equal(linear(values, 0.5, 0), [0, 0, 2, 100, 128])
    np.testing.assert_array_equal(linear(values, 1, -2), [0, 0, 1, 198, 253])
    np.testing.assert_array_equal(linear(values, 1.5, 0), [0, 2, 4, 255, 255])


DISTORT = (
    "brightness_prob: 0.5 brightness_delta: 32 contrast_prob: 0.5 contrast_lower: 0.5 "
    "contrast_upper: 1.5 saturation_prob: 0.5 saturation_lower: 0.5 saturation_upper: 1.5 "
    "hue_prob: 0.5 hue_delta: 18 random_order_prob: 0.5"
)


def test_nothing_is_distorted_where_no_draw_says_so() -> None:
    image, rng = sample([]).image, Given(0.9, 0.5, 0.5, 0.5, 0.5, 0.5)
    distort = Distortion(record("DistortionParameter", DISTORT), "d")
    np.testing.assert_array_equal(distort(image, rng), image)
    assert not rng.shares


def test_order_of_the_distortions() -> None:
    """Contrast 1.5 before or after a saturation of 0.5, by the first draw."""
    image = sample([]).image
    distort = Distortion(record("DistortionParameter", DISTORT), "d")

    def pale(values: np.ndarray) -> np.ndarray:
        hsv = cv2.cvtColor(values, cv2.COLOR_BGR2HSV)
        hsv[..., 1] = np.rint(hsv[..., 1] * 0.5)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)

    def strong(values: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(values * 1.5), 0, 255).astype(np.uint8)

    first = distort(image, Given(0.6, 0.9, 0.1, 1.0, 0.2, 0.0, 0.9, 0.9))
    np.testing.assert_array_equal(first, pale(strong(image)))
    last = distort(image, Given(0.5, 0.9, 0.2, 0.0, 0.9, 0.1, 1.0, 0.9))
    np.testing.assert_array_equal(last, strong(pale(image)))


def test_brightness_hue_and_order() -> None:
    image = sample([]).image
    distort = Distortion(record("DistortionParameter", DISTORT), "d")
    bright = distort(image, Given(0.0, 0.0, 0.75, 0.9, 0.9, 0.9, 0.9))
    np.testing.assert_array_equal(bright, np.minimum(image.astype(int) + 16, 255))
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = np.maximum(hsv[..., 0].astype(int) - 18, 0)
    turned = distort(image, Given(0.0, 0.9, 0.9, 0.0, 0.0, 0.9, 0.9))
    np.testing.assert_array_equal(turned, cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))
    ordered = distort(image, Given(0.0, 0.9, 0.9, 0.9, 0.9, 0.0))
    assert sorted(ordered[0, 0]) == sorted(image[0, 0])


def test_expand() -> None:
    p = record("ExpansionParameter", "prob: 0.5 max_expand_ratio: 4")
    one = sample([(1, 0, 0, 0, 1, 1, 0), (2, 0, 0.5, 0, 1, 0.5, 1)], encoded=False)
    assert expand(one, p, None, None, Given(0.6)) is one
    # Ratio 1 + 1/3 * 3 = 2: a canvas of 32 x 16, 2 rows above and 8 columns left of the picture.
    made = expand(one, p, None, None, Given(0.5, 1 / 3, 0.25, 0.5))
    assert made.image.shape == (16, 32, 3)
    np.testing.assert_array_equal(made.image[2:10, 8:24], one.image)
    assert (made.image[:2] == 32).all() and (made.image[:, :8] == 32).all()
    want = [(1, 0, 0.25, 0.125, 0.75, 0.625, 0), (2, 0, 0.5, 0.125, 0.75, 0.375, 1)]
    np.testing.assert_array_equal(made.table, np.array(want, np.float32))


def test_the_canvas_of_encoded_pictures_has_the_mean_and_is_a_jpeg() -> None:
    p = record("ExpansionParameter", "max_expand_ratio: 2")
    mean = np.array([104, 117, 123], np.float32).reshape(3, 1, 1)
    one = sample([])
    made = expand(one, p, mean, None, Given(0.5, 0.99999994, 0.0, 0.0))
    plain = np.empty((*made.image.shape[:2], 3), np.uint8)
    plain[...] = (104, 117, 123)
    plain[:8, :16] = one.image
    want = cv2.imdecode(cv2.imencode(".jpg", plain)[1], cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(made.image, want)


def test_drawn_boxes() -> None:
    square = record("Sampler", "min_scale: 0.25 max_scale: 0.75")
    found = draw_box(square, Given(0.5, 0.0, 0.5, 1.0))  # scale 0.5, aspect 1
    np.testing.assert_array_equal(found, np.array([0.25, 0.5, 0.75, 1], np.float32))
    wide = record(
        "Sampler", "min_scale: 0.5 max_scale: 0.5 min_aspect_ratio: 4 max_aspect_ratio: 9"
    )
    # Aspect 9 would be wider than the picture: 1 / scale^2 = 4 is the most.
    found = draw_box(wide, Given(0.0, 1.0, 0.0, 0.0))
    np.testing.assert_array_equal(found, np.array([0, 0, 1, 0.25], np.float32))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", True),
        ("min_jaccard_overlap: 0.25", True),  # exactly 0.25
        ("min_jaccard_overlap: 0.3", False),
        ("max_jaccard_overlap: 0.2", False),
        ("min_sample_coverage: 0.25 max_sample_coverage: 0.25", True),
        ("min_object_coverage: 1", True),
        ("max_object_coverage: 0.9", False),
        # One kind kept settles it, whatever the next kind says.
        ("min_jaccard_overlap: 0.25 min_sample_coverage: 0.9", True),
        ("min_jaccard_overlap: 0.3 min_sample_coverage: 0.1", False),
    ],
)
def test_constraints(text: str, want: bool) -> None:
    """The crop is the left half, the object its upper half's right half."""
    crop = np.array([0, 0, 0.5, 1], np.float32)
    table = np.array([[1, 0, 0.25, 0, 0.5, 0.5, 0]], np.float32)
    assert satisfies(crop, table, record("SampleConstraint", text)) is want
    if text:
        assert not satisfies(crop, table[:0], record("SampleConstraint", text))


def test_trials_and_samples() -> None:
    whole = record("BatchSampler", "max_sample: 1 max_trials: 1")
    tight = record(
        "BatchSampler",
        "sampler { min_scale: 0.3 } sample_constraint { min_jaccard_overlap: 0.4 } max_sample: 2",
    )
    unused = record("BatchSampler", "use_original_image: false")
    table = np.array([[1, 0, 0.25, 0.25, 0.75, 0.75, 0]], np.float32)
    found = draw_samples([whole, tight, unused], table, np.random.default_rng(0))
    np.testing.assert_array_equal(found[0], [0, 0, 1, 1])
    assert 1 < len(found) <= 3
    again = draw_samples([whole, tight, unused], table, np.random.default_rng(0))
    np.testing.assert_array_equal(found, again)
    assert not draw_samples([tight], table[:0], np.random.default_rng(0))


def test_crop_of_a_sample() -> None:
    """Scale 0.5, aspect 1, at (0.25, 0.5): columns 4 to 12, rows 4 to 8 of 16 x 8."""
    p = record("BatchSampler", "sampler { min_scale: 0.5 max_scale: 0.5 } max_sample: 1")
    one = sample([(3, 1, 0.5, 0.5, 1, 1, 0), (5, 0, 0, 0, 0.5, 0.5, 0)], encoded=False)
    made = sample_crop(one, [p], None, Given(0.0, 0.0, 0.5, 1.0, 0.0))
    np.testing.assert_array_equal(made.image, one.image[4:8, 4:12])
    np.testing.assert_array_equal(made.table, np.array([[3, 1, 0.5, 0, 1, 1, 0]], np.float32))
    emit = Record("EmitConstraint", emit_type="CENTER")
    inside = sample_crop(one, [p], emit, Given(0.0, 0.0, 0.5, 1.0, 0.0))
    assert len(inside.table) == 1  # its centre lies on the crop's edge


def test_jpeg_only_for_encoded_pictures() -> None:
    raw, one = sample([], encoded=False), sample([])
    assert through_jpeg(raw) is raw
    want = cv2.imdecode(cv2.imencode(".jpg", one.image)[1], cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(through_jpeg(one).image, want)


def test_resize_modes() -> None:
    image = np.full((8, 16, 3), 9, np.uint8)
    rng = np.random.default_rng(0)
    small = record("ResizeParameter", "height: 4 width: 4 resize_mode: FIT_SMALL_SIZE")
    assert new_size((8, 16), small) == (4, 8)
    assert resize_image(image, small, rng, "d").shape == (4, 8, 3)
    pads = "pad_value: 1 pad_value: 2 pad_value: 3"
    text = f"height: 6 width: 6 resize_mode: FIT_LARGE_SIZE_AND_PAD {pads}"
    padded = resize_image(image, record("ResizeParameter", text), rng, "d")
    assert padded.shape == (6, 6, 3) and (padded[1:4] == 9).all()
    assert (padded[0] == [1, 2, 3]).all() and (padded[4:] == [1, 2, 3]).all()


AUGMENT = (
    "mirror: true mean_value: 104 mean_value: 117 mean_value: 123 "
    "resize_param { height: 12 width: 10 interp_mode: LINEAR interp_mode: AREA } "
    f"emit_constraint {{ emit_type: CENTER }} distort_param {{ {DISTORT} }} "
    "expand_param { prob: 0.5 max_expand_ratio: 4 }"
)
SAMPLERS = "annotated_data_param { batch_sampler { max_sample: 1 max_trials: 1 } " + "".join(
    "batch_sampler { sampler { min_scale: 0.3 min_aspect_ratio: 0.5 max_aspect_ratio: 2 } "
    f"sample_constraint {{ min_jaccard_overlap: {least} }} max_sample: 1 max_trials: 50 }} "
    for least in (0.1, 0.5)
) + "}"  # fmt: skip


def test_everything_repeats_itself_with_and_without_workers(tmp_path: Path) -> None:
    path = database(tmp_path / "db", datum(0), datum(1), datum(2))
    plain = AnnotatedSource(layer(path, AUGMENT, SAMPLERS), "TRAIN")
    plain.seed(3)
    want = [plain.next(2) for _ in range(12)]
    assert {batch[0].shape for batch in want} == {(2, 3, 12, 10)}
    assert len({batch[0].tobytes() for batch in want}) == 12
    rows = np.concatenate([batch[1][0, 0] for batch in want])
    corners = rows[rows[:, 0] >= 0][:, 3:7]
    assert (corners >= 0).all() and (corners <= 1).all() and len(corners)
    assert (corners[:, :2] < corners[:, 2:]).all()
    for workers in (0, 2):
        ahead = Prefetched(plain, 2, workers)
        ahead.seed(3)
        for number, batch in enumerate(want):
            if number == 5:
                state = ahead.state()
            for got, one in zip(ahead.next(2), batch, strict=True):
                np.testing.assert_array_equal(got, one)
        ahead.set_state(state)
        np.testing.assert_array_equal(ahead.next(2)[0], want[5][0])
        ahead.rewind()
    ahead.close()


def test_random_crops_in_training_and_the_centre_in_testing(tmp_path: Path) -> None:
    path = database(tmp_path / "db", datum(0))
    test = AnnotatedSource(layer(path, "crop_h: 4 crop_w: 4"), "TEST")
    assert test.shapes(1)[0] == (1, 3, 4, 4)
    data, label = test.next(1)
    np.testing.assert_array_equal(data[0], PICTURES[0][1:5, 2:6].transpose(2, 0, 1))
    # Rows 1 to 5 of 6, columns 2 to 6 of 8: (0.25, 0.5, 0.75, 1) and (0, 0, 0.5, 0.25).
    want = [(0, 3, 0, 0, 0.5, 1, 1, 0), (0, 3, 1, 0, 0, 0.5, 0.125, 1)]
    np.testing.assert_allclose(label[0, 0], want, atol=1e-6)
    train = AnnotatedSource(layer(path, "crop_size: 4"), "TRAIN")
    assert len({train.next(1)[0].tobytes() for _ in range(30)}) > 8


def test_crops_of_several_processes_are_those_of_one(tmp_path: Path) -> None:
    path = database(tmp_path / "db", datum(0), datum(1), datum(2))
    spec = layer(path, AUGMENT, SAMPLERS)
    whole = AnnotatedSource(spec, "TRAIN").next(6)[0]
    parts = []
    for rank in range(2):
        source = AnnotatedSource(spec, "TRAIN")
        source.divide(rank, 2)
        parts.append(source.next(3)[0])
    np.testing.assert_array_equal(np.stack(parts, 1).reshape(whole.shape), whole)
