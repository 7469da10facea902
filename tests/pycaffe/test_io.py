from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import BlobError, BridgeError, DataError, SchemaError, ShapeError
from caffe_bridge.pycaffe.io import (
    Transformer,
    array_to_blobproto,
    array_to_datum,
    arraylist_to_blobprotovector_str,
    blobproto_to_array,
    blobprotovector_str_to_arraylist,
    datum_to_array,
    load_image,
    oversample,
)
from caffe_bridge.pycaffe.proto import caffe_pb2

RNG = np.random.default_rng(0)


def test_blobproto_of_the_old_shape() -> None:
    values = RNG.standard_normal((10, 1, 8, 8)).astype(np.float32)
    blob = caffe_pb2.BlobProto(num=10, channels=1, height=8, width=8)
    blob.data.extend(values.ravel().tolist())
    np.testing.assert_array_equal(blobproto_to_array(blob), values)


def test_blobproto_of_the_new_shape_and_gradient() -> None:
    values = RNG.standard_normal((3, 4)).astype(np.float32)
    blob = array_to_blobproto(values, diff=2 * values)
    assert list(blob.shape.dim) == [3, 4]
    np.testing.assert_array_equal(blobproto_to_array(blob), values)
    np.testing.assert_array_equal(blobproto_to_array(blob, return_diff=True), 2 * values)
    assert blobproto_to_array(array_to_blobproto(np.float32(3.0))).shape == ()


def test_blobproto_of_wrong_size_is_refused() -> None:
    blob = caffe_pb2.BlobProto(num=1, channels=1, height=2, width=2, data=[1.0])
    with pytest.raises(SchemaError, match="holds 1 values"):
        blobproto_to_array(blob)


def test_several_blobs_as_one_string() -> None:
    arrays = [RNG.standard_normal(s).astype(np.float32) for s in ((2,), (3, 1, 2))]
    again = blobprotovector_str_to_arraylist(arraylist_to_blobprotovector_str(arrays))
    for got, want in zip(again, arrays, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_datum_round_trip(dtype: type) -> None:
    values = RNG.integers(0, 255, (3, 4, 5)).astype(dtype)
    datum = array_to_datum(values, label=1)
    assert (datum.label, bool(datum.data)) == (1, dtype is np.uint8)
    np.testing.assert_array_equal(datum_to_array(datum), values)
    assert not array_to_datum(values).HasField("label")
    with pytest.raises(ShapeError, match="channels, height, width"):
        array_to_datum(values[0])


def test_encoded_datum_is_decoded() -> None:
    image = RNG.integers(0, 255, (4, 5, 3)).astype(np.uint8)
    datum = caffe_pb2.Datum(data=cv2.imencode(".png", image)[1].tobytes(), encoded=True)
    np.testing.assert_array_equal(datum_to_array(datum), image.transpose(2, 0, 1))


def transformer(shape: tuple[int, ...] = (1, 3, 4, 4)) -> Transformer:
    return Transformer({"data": shape})


def test_preprocess_in_caffes_order() -> None:
    image = RNG.random((4, 4, 3)).astype(np.float32)
    made = transformer()
    made.set_transpose("data", (2, 0, 1))
    made.set_channel_swap("data", (2, 1, 0))
    made.set_raw_scale("data", 255)
    made.set_mean("data", np.array([1.0, 2.0, 3.0]))
    made.set_input_scale("data", 0.5)
    got = made.preprocess("data", image)
    mean = np.array([1, 2, 3], np.float32)[:, None, None]
    want = (image.transpose(2, 0, 1)[::-1] * 255 - mean) * 0.5
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(made.deprocess("data", got), image, atol=1e-5)


def test_preprocess_resizes() -> None:
    made = transformer()
    made.set_transpose("data", (2, 0, 1))
    assert made.preprocess("data", np.ones((9, 7, 3))).shape == (3, 4, 4)


def test_mean_images() -> None:
    made = transformer()
    made.set_mean("data", np.ones((1, 3, 4, 4)))
    assert made.mean["data"].shape == (3, 4, 4)
    made.set_mean("data", np.arange(6.0).repeat(64).reshape(6, 8, 8)[::2])
    np.testing.assert_allclose(made.mean["data"], np.full((3, 4, 4), [[[0]], [[2]], [[4]]]))
    gray = transformer((1, 1, 4, 4))
    with pytest.raises(ShapeError, match="3 numbers for 1 channels"):
        gray.set_mean("data", np.zeros(3))
    gray.set_mean("data", np.ones((4, 4)))
    assert gray.mean["data"].shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t.set_mean("data", np.ones((2, 4, 4))), ShapeError, "mean image of shape"),
        (lambda t: t.set_mean("data", np.ones(2)), ShapeError, "2 numbers for 3 channels"),
        (lambda t: t.set_transpose("data", (0, 1)), ShapeError, "has 2 axes"),
        (lambda t: t.set_channel_swap("data", (0, 1)), ShapeError, "names 2 channels"),
        (lambda t: t.set_channel_swap("data", (1, 2, 3)), ShapeError, "channels are 0 to 2"),
        (lambda t: t.set_raw_scale("nope", 1), BlobError, "'nope' is no input"),
        (lambda t: t.preprocess("nope", np.ones((4, 4, 3))), BlobError, "'nope' is no input"),
    ],
)
def test_wrong_settings(call: Callable[[Transformer], None], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(transformer())


def test_load_image_of_a_name_that_is_not_utf8() -> None:
    cv2.imwrite("red.png", np.full((5, 6, 3), (0, 0, 255), np.uint8))
    name = Path("red.png").rename(os.fsdecode(b"r\xe9d.png"))
    np.testing.assert_array_equal(load_image(name), np.full((5, 6, 3), (1, 0, 0), np.float32))


def test_load_image_is_rgb_between_0_and_1() -> None:
    picture = np.zeros((5, 6, 3), np.uint8)
    picture[..., 2] = 255  # red for OpenCV
    cv2.imwrite("red.png", picture)
    image = load_image("red.png")
    assert (image.shape, image.dtype) == ((5, 6, 3), np.float32)
    np.testing.assert_array_equal(image[0, 0], [1, 0, 0])
    # Red weighs 0.2125 in scikit-image's grey, which pycaffe takes.
    grey = load_image("red.png", color=False)
    assert grey.shape == (5, 6, 1)
    np.testing.assert_allclose(grey[..., 0], 0.2125 * load_image("red.png")[..., 0], rtol=1e-5)
    cv2.imwrite("gray.png", picture[..., 2])
    assert load_image("gray.png").shape == (5, 6, 3)
    with pytest.raises(SchemaError, match="no such picture"):
        load_image("none.png")


def test_what_is_no_picture_is_refused() -> None:
    with open("text.png", "w") as stream:
        stream.write("text")
    with pytest.raises(DataError, match="no picture"):
        load_image("text.png")


def test_oversample_takes_corners_centre_and_mirrors() -> None:
    image = np.arange(5 * 6, dtype=np.float32).reshape(5, 6, 1)
    crops = oversample([image], (2, 3))
    assert crops.shape == (10, 2, 3, 1)
    assert crops[:5, 0, 0, 0].tolist() == [0, 3, 18, 21, 7]
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])
    with pytest.raises(ShapeError, match="at least that size"):
        oversample([image], (9, 9))


def test_everything_is_under_caffe_io() -> None:
    assert caffe.io.Transformer is Transformer
    assert issubclass(DataError, BridgeError)
