from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge.data import AnnotatedSource, write_datums, write_lmdb
from caffe_bridge.errors import DataError
from caffe_bridge.graph import LayerSpec, parse_net
from caffe_bridge.schema import Record, encode

PICTURES = [np.random.default_rng(i).integers(0, 256, (6, 8, 3), np.uint8) for i in range(3)]
#: Per picture: class, instance, x1, y1, x2, y2, difficult.
BOXES: list[list[tuple[float, ...]]] = [
    [(3, 0, 0.25, 0.5, 0.75, 1.0, 0), (3, 1, 0.0, 0.0, 0.5, 0.25, 1)],
    [],
    [(7, 0, 0.125, 0.25, 0.5, 0.75, 0)],
]


def datum(index: int, encoded: bool = True, kind: str | None = "BBOX") -> bytes:
    record = Record("AnnotatedDatum")
    inner = record.mutable("datum")
    if encoded:
        inner.data = cv2.imencode(".png", PICTURES[index])[1].tobytes()
        inner.encoded = True
    else:
        inner.channels, inner.height, inner.width = 3, 6, 8
        inner.data = PICTURES[index].transpose(2, 0, 1).tobytes()
    inner.label = 10 + index
    if kind is not None:
        record.type = kind
    for label, instance, x1, y1, x2, y2, difficult in BOXES[index]:
        group = record.add("annotation_group", group_label=int(label))
        box = Record("NormalizedBBox", xmin=x1, ymin=y1, xmax=x2, ymax=y2)
        box.difficult = bool(difficult)
        group.append("annotation", Record("Annotation", instance_id=int(instance), bbox=box))
    return encode(record)


def database(path: Path, *records: bytes) -> Path:
    write_lmdb(path, ((b"%08d" % i, record) for i, record in enumerate(records)))
    return path


def layer(path: Path, transform: str = "", more: str = "", tops: int = 2) -> LayerSpec:
    names = 'top: "x" top: "y"' if tops == 2 else 'top: "x"'
    text = (
        f'layer {{ name: "d" type: "AnnotatedData" {names} transform_param {{ {transform} }} '
        f'data_param {{ source: "{path}" backend: LMDB batch_size: 2 }} {more} }}'
    )
    return parse_net(text).layers[0]


def rows(*items: int) -> np.ndarray:
    found = [(at, *box) for at, index in enumerate(items) for box in BOXES[index]]
    return np.array(found, np.float32).reshape(1, 1, -1, 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return database(tmp_path / "db", datum(0), datum(1, encoded=False), datum(2))


def test_pictures_and_boxes(path: Path) -> None:
    source = AnnotatedSource(layer(path), "TEST")
    assert source.shapes(2) == [(2, 3, 6, 8), (1, 1, 2, 8)]
    data, label = source.next(2)
    np.testing.assert_array_equal(data, [p.transpose(2, 0, 1) for p in PICTURES[:2]])
    np.testing.assert_array_equal(label, rows(0, 1))
    data, label = source.next(2)
    np.testing.assert_array_equal(label, rows(2, 0))
    assert data.dtype == label.dtype == np.float32
    np.testing.assert_array_equal(source.next(1)[1], np.full((1, 1, 1, 8), -1))
    source.reset()
    np.testing.assert_array_equal(source.next(2)[1], rows(0, 1))
    source.close()


def test_resize_then_mean_and_scale(path: Path) -> None:
    transform = (
        "scale: 0.5 mean_value: 4 resize_param { height: 4 width: 5 interp_mode: AREA "
        "resize_mode: WARP prob: 1 }"
    )
    source = AnnotatedSource(layer(path, transform), "TEST")
    assert source.shapes(2)[0] == (2, 3, 4, 5)
    want = cv2.resize(PICTURES[0], (5, 4), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    np.testing.assert_array_equal(source.next(1)[0][0], (want.astype(np.float32) - 4) * 0.5)


def test_gray(path: Path) -> None:
    resize = "resize_param { height: 6 width: 8 }"
    source = AnnotatedSource(layer(path, f"force_gray: true {resize}"), "TEST")
    assert source.shapes(1)[0] == (1, 1, 6, 8)


def test_boxes_are_mirrored_with_their_picture(path: Path) -> None:
    source = AnnotatedSource(layer(path, "mirror: true"), "TRAIN")
    seen = set()
    for _ in range(8):
        data, label = source.next(3)
        picture = PICTURES[0].transpose(2, 0, 1)
        flipped = not np.array_equal(data[0], picture)
        want = rows(0)[0, 0]
        if flipped:
            np.testing.assert_array_equal(data[0], picture[..., ::-1])
            want[:, 3], want[:, 5] = 1 - rows(0)[0, 0, :, 5], 1 - rows(0)[0, 0, :, 3]
        np.testing.assert_array_equal(label[0, 0, :2], want)
        seen.add(flipped)
    assert seen == {True, False}


def test_several_interpolations_are_drawn(path: Path) -> None:
    transform = "resize_param { height: 3 width: 4 interp_mode: NEAREST interp_mode: AREA }"
    source = AnnotatedSource(layer(path, transform), "TRAIN")
    firsts = {source.next(3)[0][0].tobytes() for _ in range(12)}
    both = (
        cv2.resize(PICTURES[0], (4, 3), interpolation=mode).transpose(2, 0, 1)
        for mode in (cv2.INTER_NEAREST, cv2.INTER_AREA)
    )
    assert firsts == {np.ascontiguousarray(b, np.float32).tobytes() for b in both}


def test_records_without_annotation_type_have_labels(tmp_path: Path) -> None:
    path = database(tmp_path / "db", datum(0, kind=None), datum(1, kind=None))
    source = AnnotatedSource(layer(path), "TEST")
    assert source.shapes(2)[1] == (2,)
    np.testing.assert_array_equal(source.next(2)[1], [10, 11])
    extra = "annotated_data_param { anno_type: BBOX }"
    np.testing.assert_array_equal(
        AnnotatedSource(layer(path, more=extra), "TEST").next(2)[1], rows(0, 1)
    )


def test_whole_pictures_are_no_sampling(path: Path) -> None:
    extra = (
        "annotated_data_param { batch_sampler { use_original_image: true max_sample: 1 "
        "max_trials: 1 } }"
    )
    assert AnnotatedSource(layer(path, more=extra), "TRAIN").next(1)[0].shape == (1, 3, 6, 8)


@pytest.mark.parametrize(
    ("transform", "more", "message"),
    [
        ("crop_size: 7", "", "a crop of 7 x 7 is larger than the picture of 6 x 8"),
        ("crop_h: 3", "", "only one of crop_h and crop_w"),
        ("noise_param { hist_eq: true }", "", r"transform_param\.noise_param is a fork's"),
        (
            "resize_param { prob: 0.5 height: 2 width: 2 } resize_param { height: 2 width: 3 }",
            "",
            "unequal prob",
        ),
        (
            "resize_param { resize_mode: FIT_SMALL_SIZE height: 2 width: 2 }",
            "",
            "batch_size is 2, make it 1",
        ),
        ("resize_param { height: 2 }", "", "gives no height or width"),
        ("distort_param { contrast_lower: 2 contrast_upper: 1 }", "", "are no range from 0 on"),
        ("distort_param { hue_delta: -2 }", "", "hue_delta is negative"),
        (
            "force_gray: true distort_param { hue_prob: 1 hue_delta: 3 }",
            "",
            "do not have three channels; use force_color",
        ),
        (
            "",
            "annotated_data_param { batch_sampler { sampler { min_scale: 0.3 max_scale: 0.2 } } }",
            r"batch_sampler 0 has scales from 0\.3 to 0\.2",
        ),
        (
            "",
            "annotated_data_param { batch_sampler { sampler { min_aspect_ratio: 0 } } }",
            "aspect ratios from 0 to 1",
        ),
        (
            "",
            "annotated_data_param { batch_sampler { sampler { min_scale: 0.01 max_scale: .1 } } }",
            "a random crop of the picture of 8 x 6 has no pixel",
        ),
        ("", "annotated_data_param { anno_type: LANE }", "annotations of type LANE"),
    ],
)
def test_errors(path: Path, transform: str, more: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        AnnotatedSource(layer(path, transform, more), "TRAIN").next(2)


def test_other_records(tmp_path: Path) -> None:
    write_datums(tmp_path / "plain", np.zeros((1, 1, 2, 2), np.uint8), [0])
    with pytest.raises(DataError, match="key 00000000"):
        AnnotatedSource(layer(tmp_path / "plain"), "TEST")
    empty = database(tmp_path / "empty", encode(Record("AnnotatedDatum", type="BBOX")))
    with pytest.raises(DataError, match="no AnnotatedDatum; read this data base by a Data layer"):
        AnnotatedSource(layer(empty), "TEST")
    mixed = database(tmp_path / "mixed", datum(0), datum(1, kind=None))
    with pytest.raises(DataError, match="some records have annotations and some have none"):
        AnnotatedSource(layer(mixed), "TEST").next(2)
    spec = parse_net('layer { name: "d" type: "AnnotatedData" top: "x" }').layers[0]
    with pytest.raises(DataError, match=r"gives no data_param\.source"):
        AnnotatedSource(spec, "TEST")
