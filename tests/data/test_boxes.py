"""Boxes by hand: what crops, flips and resizes do to them."""

import numpy as np
import pytest

from caffe_bridge.data.boxes import (
    area,
    coverage,
    crop_boxes,
    emitted,
    extrapolated,
    intersection,
    jaccard,
    mirrored,
    project,
    resized,
)
from caffe_bridge.schema import Record, parse_text


def box(*corners: float) -> np.ndarray:
    return np.array(corners, np.float32)


def row(*corners: float, label: int = 4) -> np.ndarray:
    return np.array([[label, 2, *corners, 1]], np.float32)


def resize(text: str) -> Record:
    return parse_text(text, "ResizeParameter")


def test_measures() -> None:
    a, b = box(0, 0, 0.5, 0.5), box(0.25, 0.25, 0.75, 1)
    np.testing.assert_array_equal(intersection(a, b), box(0.25, 0.25, 0.5, 0.5))
    assert area(b) == 0.375 and area(box(0.5, 0, 0.25, 1)) == 0
    assert jaccard(a, b) == np.float32(0.0625 / (0.25 + 0.375 - 0.0625))
    assert coverage(a, b) == 0.25 and coverage(b, a) == np.float32(0.0625 / 0.375)
    far = box(0.75, 0.75, 1, 1)
    assert jaccard(a, far) == coverage(a, far) == 0
    np.testing.assert_array_equal(intersection(a, far), np.zeros(4))


def test_projection() -> None:
    crop = box(0.25, 0.5, 0.75, 1)
    np.testing.assert_array_equal(project(crop, box(0.5, 0.75, 1, 1)), box(0.5, 0.5, 1, 1))
    np.testing.assert_array_equal(project(crop, box(0, 0, 1, 1)), box(0, 0, 1, 1))
    assert project(crop, box(0, 0, 0.25, 1)) is None  # touches only
    assert project(crop, box(0.5, 0.75, 0.5, 1)) is None  # has no area


def test_crops_keep_the_rest_of_the_row() -> None:
    table = np.concatenate([row(0.5, 0.75, 1, 1), row(0, 0, 0.125, 0.125, label=9)])
    crop = box(0.25, 0.5, 0.75, 1)
    np.testing.assert_array_equal(crop_boxes(table, crop), row(0.5, 0.5, 1, 1))
    assert crop_boxes(table[:0], crop).shape == (0, 7)


def test_a_larger_canvas() -> None:
    """The picture, twice as wide and high, lies half a picture right and none below the top."""
    canvas = box(-0.5, 0, 1.5, 2)
    np.testing.assert_array_equal(crop_boxes(row(0, 0, 1, 0.5), canvas), row(0.25, 0, 0.75, 0.25))


def test_emit_constraint() -> None:
    crop, centre = box(0.5, 0.5, 1, 1), Record("EmitConstraint", emit_type="CENTER")
    assert emitted(crop, box(0.25, 0.25, 0.75, 0.75), centre)  # its centre is the corner
    assert not emitted(crop, box(0.25, 0.25, 0.625, 0.75), centre)
    share = Record("EmitConstraint", emit_type="MIN_OVERLAP", emit_overlap=0.25)
    assert not emitted(crop, box(0.25, 0.25, 0.75, 0.75), share)  # exactly a quarter
    assert emitted(crop, box(0.375, 0.5, 0.75, 0.75), share)
    kept = crop_boxes(
        np.concatenate([row(0.25, 0.25, 0.75, 0.75), row(0.5, 0, 0.75, 1)]), crop, share
    )
    np.testing.assert_array_equal(kept, row(0, 0, 0.5, 1))


def test_mirror() -> None:
    np.testing.assert_array_equal(mirrored(row(0.125, 0, 0.5, 0.75)), row(0.5, 0, 0.875, 0.75))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("height: 30 width: 50", (0.25, 0.5, 0.75, 1)),
        ("height: 7 width: 5 resize_mode: FIT_SMALL_SIZE", (0.25, 0.5, 0.75, 1)),
        # 40 x 20 becomes 20 x 10 with 5 rows above and below.
        ("height: 20 width: 20 resize_mode: FIT_LARGE_SIZE_AND_PAD", (0.25, 0.5, 0.75, 0.75)),
        # 40 x 20 becomes 20 x 10 with 10 columns left and right.
        ("height: 10 width: 40 resize_mode: FIT_LARGE_SIZE_AND_PAD", (0.375, 0.5, 0.625, 1)),
    ],
)
def test_resizing(text: str, want: tuple[float, ...]) -> None:
    found = resized(row(0.25, 0.5, 0.75, 1), (20, 40), resize(text))
    np.testing.assert_allclose(found, row(*want), rtol=1e-6)


def test_resizing_clips_at_the_border() -> None:
    found = resized(row(-0.25, 0, 1.5, 1), (20, 40), resize("height: 10 width: 10"))
    np.testing.assert_array_equal(found, row(0, 0, 1, 1))


def test_extrapolation() -> None:
    """40 x 20 fits into at least 10 x 10 as 20 x 10; the crop is its left half."""
    p = resize("height: 10 width: 10 resize_mode: FIT_SMALL_SIZE height_scale: 5 width_scale: 4")
    found = extrapolated(row(0, 0.5, 1, 1), (20, 40), p, box(0, 0, 0.5, 1))
    np.testing.assert_array_equal(found, row(0, 1, 2.5, 2))
    plain = resize("height: 10 width: 10 resize_mode: FIT_SMALL_SIZE")
    np.testing.assert_array_equal(
        extrapolated(row(0, 0.5, 1, 1), (20, 40), plain, box(0, 0, 1, 1)), row(0, 0.5, 1, 1)
    )
