"""Datum records: one image and its label, raw or as an encoded picture."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from caffe_bridge.errors import DataError, SchemaError
from caffe_bridge.schema import Record, decode, encode


def decode_image(data: bytes, color: bool | None, where: str) -> np.ndarray:
    """Decode a picture (JPEG, PNG, ...) to uint8 CHW, BGR when it has colour.

    Args:
        data: the file's bytes.
        color: True for three channels, False for one, None for as many as the picture has.
        where: what to name in messages.

    Raises:
        DataError: no picture, or not of eight bits per value.
    """
    import cv2  # here: loading it takes longer than everything else in the package

    flag = {True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE, None: cv2.IMREAD_UNCHANGED}[color]
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    if image is None:
        raise DataError(f"{where}: {len(data)} bytes that are no picture OpenCV can decode.")
    return to_chw(image, where)


def read_picture(path: str | os.PathLike[str], flag: int) -> np.ndarray | None:
    """What ``cv2.imread`` gives; by itself it kills the process where a name is not UTF-8.

    Its bytes are not decoded from memory instead: of pictures that are cut off OpenCV decodes what
    there is from files only.

    Args:
        path: the file; undecodable bytes of its name escaped as Python does.
        flag: OpenCV's ``IMREAD_`` constant.

    Returns:
        (H, W) or (H, W, C), BGR; None when there is no such file, or no picture in it.
    """
    import cv2  # here: see above

    name: Any = os.fspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        name = os.fsencode(name)
    image: np.ndarray | None = cv2.imread(name, flag)
    return image


def to_chw(image: np.ndarray, where: str) -> np.ndarray:
    """OpenCV's (H, W) or (H, W, C) as a (C, H, W) view.

    Raises:
        DataError: not eight bits per value.
    """
    if image.dtype != np.uint8:
        raise DataError(f"{where}: picture of {image.dtype} values; use 8 bits per channel.")
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def decode_datum(
    data: bytes, where: str, force_color: bool = False, force_gray: bool = False
) -> tuple[np.ndarray, int]:
    """Image and label of an encoded Datum message.

    Encoded pictures keep the channels they have unless a ``force_`` flag says otherwise; both
    flags mean nothing for raw datums. Caffe source: DecodeDatumNative and DecodeDatumToCVMat in
    util/io.cpp.

    Args:
        data: the message's bytes.
        where: what to name in messages (data base and key).
        force_color: decode pictures to three channels.
        force_gray: decode pictures to one channel.

    Returns:
        Array (C, H, W), uint8 or (for ``float_data``) float32, possibly a view of ``data``, and
        the label (0 when the datum has none).

    Raises:
        DataError: not a Datum, or its size is not channels x height x width.
    """
    try:
        datum = decode(data, "Datum", where)
    except SchemaError as error:
        raise DataError(str(error)) from error
    return datum_image(datum, where, force_color, force_gray), int(datum.label)


def datum_image(
    datum: Record, where: str, force_color: bool = False, force_gray: bool = False
) -> np.ndarray:
    """The image of a Datum record; see :func:`decode_datum`.

    Raises:
        DataError: its size is not channels x height x width, or it is no picture.
    """
    if datum.encoded:
        color = True if force_color else False if force_gray else None
        return decode_image(datum.data, color, where)
    shape = (datum.channels, datum.height, datum.width)
    if datum.has("data") and datum.data:
        values = np.frombuffer(datum.data, np.uint8)
    else:
        values = np.asarray(datum.float_data, np.float32)
    if min(shape) <= 0 or values.size != shape[0] * shape[1] * shape[2]:
        raise DataError(
            f"{where}: a Datum of shape {shape} with {values.size} values; "
            "the record is damaged or of another kind, write the data base again."
        )
    return values.reshape(shape)


def encode_datum(array: np.ndarray, label: int = 0) -> bytes:
    """The Datum message of an image (C, H, W).

    uint8 arrays go to ``data``, others to ``float_data`` as float32.

    Raises:
        DataError: not three axes.
    """
    if array.ndim != 3:
        raise DataError(f"a Datum holds an image (C, H, W), found shape {array.shape}.")
    channels, height, width = (int(d) for d in array.shape)
    datum = Record("Datum", channels=channels, height=height, width=width)
    if array.dtype == np.uint8:
        datum.data = array.tobytes()
    else:
        datum.float_data = array.astype(np.float32).reshape(-1)
    datum.label = int(label)
    return encode(datum)
