import time

import cv2
import numpy as np
import pytest

from caffe_bridge.data import decode_datum, encode_datum
from caffe_bridge.errors import DataError
from caffe_bridge.schema import Record, decode, encode
from caffe_bridge.schema.messages import message_class


def picture(image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".png", image)
    assert ok
    return encode(Record("Datum", encoded=True, data=data.tobytes(), label=5))


def test_raw_bytes_keep_shape_order_and_label() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    got, label = decode_datum(encode_datum(image, 7), "here")
    assert got.dtype == np.uint8 and label == 7
    np.testing.assert_array_equal(got, image)


def test_record_is_what_caffe_writes() -> None:
    record = decode(encode_datum(np.full((1, 2, 2), 9, np.uint8), 3), "Datum")
    assert (record.channels, record.height, record.width) == (1, 2, 2)
    assert record.data == b"\x09" * 4 and record.label == 3 and not record.has("encoded")


def test_other_types_are_stored_as_floats() -> None:
    image = np.array([[[-1.5, 300.25]]])
    got, label = decode_datum(encode_datum(image), "here")
    assert got.dtype == np.float32 and label == 0
    np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize(
    ("flags", "channels"), [({}, 3), ({"force_gray": True}, 1), ({"force_color": True}, 3)]
)
def test_colour_pictures(flags: dict[str, bool], channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    got, label = decode_datum(picture(image), "here", **flags)
    assert got.shape == (channels, 4, 5) and label == 5
    if channels == 3:
        np.testing.assert_array_equal(got, image.transpose(2, 0, 1))


@pytest.mark.parametrize(("flags", "channels"), [({}, 1), ({"force_color": True}, 3)])
def test_gray_pictures_keep_one_channel_unless_forced(
    flags: dict[str, bool], channels: int
) -> None:
    image = np.arange(20, dtype=np.uint8).reshape(4, 5)
    got, _label = decode_datum(picture(image), "here", **flags)
    assert got.shape == (channels, 4, 5)
    np.testing.assert_array_equal(got[0], image)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xff", "not a whole Datum"),
        (encode(Record("Datum", channels=1, height=2, width=2, data=b"abc")), "with 3 values"),
        (encode(Record("Datum", label=1)), r"shape \(0, 0, 0\)"),
        (encode(Record("Datum", encoded=True, data=b"text")), "4 bytes that are no picture"),
        (encode(Record("Datum", encoded=True)), "0 bytes that are no picture"),
    ],
)
def test_damaged_records_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        decode_datum(data, "db, key 7")
    assert str(error.value).startswith("db, key 7")


def test_sixteen_bit_pictures_are_refused() -> None:
    with pytest.raises(DataError, match="uint16 values; use 8 bits"):
        decode_datum(picture(np.zeros((2, 2), np.uint16)), "here")


def test_only_images_can_be_encoded() -> None:
    with pytest.raises(DataError, match=r"shape \(4,\)"):
        encode_datum(np.zeros(4, np.uint8))


def test_float_data_is_written_as_protobuf_writes_it() -> None:
    image = np.array([[[-1.5, 0.1], [3e38, 0.0]]], np.float32)
    wanted = message_class("Datum")(channels=1, height=2, width=2, label=4)
    wanted.float_data.extend(image.reshape(-1).tolist())
    assert encode_datum(image, 4) == wanted.SerializeToString(deterministic=True)


def test_large_float_datums_take_no_time() -> None:
    image = np.random.default_rng(0).standard_normal((3, 227, 227)).astype(np.float32)
    begin = time.perf_counter()
    got, _label = decode_datum(encode_datum(image), "here")
    assert time.perf_counter() - begin < 0.5
    np.testing.assert_array_equal(got, image)
