"""``caffe.io``: preparing inputs, and arrays to and from BlobProto and Datum messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from caffe_bridge.data import decode_datum
from caffe_bridge.errors import BlobError, DataError, ShapeError
from caffe_bridge.pycaffe.proto import caffe_pb2
from caffe_bridge.pycaffe.resample import load_image, oversample, resize_image
from caffe_bridge.schema import stored_blob
from caffe_bridge.schema.protobuf import from_message

__all__ = [
    "Transformer", "array_to_blobproto", "array_to_datum", "arraylist_to_blobprotovecor_str",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array", "blobprotovector_str_to_arraylist", "datum_to_array", "load_image",
    "oversample", "resize_image",
]  # fmt: skip


def blobproto_to_array(blob: Any, return_diff: bool = False) -> np.ndarray:
    """The values (or the gradient) of a BlobProto in its shape; legacy shapes have four axes.

    Raises:
        SchemaError: the number of values is not the product of the shape.
    """
    return np.array(stored_blob(from_message(blob), gradient=return_diff).array())


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> Any:
    """A BlobProto of an array of any number of axes, with a gradient if one is given."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(np.asarray(arr, np.float32).ravel().tolist())
    if diff is not None:
        blob.diff.extend(np.asarray(diff, np.float32).ravel().tolist())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[np.ndarray]) -> bytes:
    """Several arrays as one serialized BlobProtoVector."""
    vector = caffe_pb2.BlobProtoVector()
    vector.blobs.extend(array_to_blobproto(array) for array in arraylist)
    return bytes(vector.SerializeToString())


#: The name as most versions of pycaffe spell it.
arraylist_to_blobprotovecor_str = arraylist_to_blobprotovector_str


def blobprotovector_str_to_arraylist(text: bytes) -> list[np.ndarray]:
    """The arrays of a serialized BlobProtoVector."""
    vector = caffe_pb2.BlobProtoVector()
    vector.ParseFromString(text)
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> Any:
    """A Datum of an array (C, H, W): uint8 to ``data``, other types to ``float_data``.

    Raises:
        ShapeError: not three axes.
    """
    if arr.ndim != 3:
        raise ShapeError(f"array_to_datum: wants (channels, height, width), found {arr.shape}.")
    datum = caffe_pb2.Datum()
    datum.channels, datum.height, datum.width = arr.shape
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(np.float32).ravel().tolist())
    if label is not None:
        datum.label = int(label)
    return datum


def datum_to_array(datum: Any) -> np.ndarray:
    """The array (C, H, W) of a Datum; an encoded picture is decoded (BGR).

    Raises:
        DataError: size and content do not agree.
    """
    return decode_datum(datum.SerializeToString(), "datum_to_array")[0]


class Transformer:
    """Turns pictures as :func:`load_image` gives them into net inputs, and back.

    ``preprocess`` resizes, moves the axes (transpose), reorders the channels (channel_swap),
    multiplies by raw_scale, subtracts the mean and multiplies by input_scale, in this order, as
    far as each is set.

    Args:
        inputs: shapes of the input blobs by name, (N, K, H, W).
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, tuple[int, ...]] = {}
        self.channel_swap: dict[str, tuple[int, ...]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _check(self, name: str) -> None:
        if name not in self.inputs:
            raise BlobError(
                f"Transformer: '{name}' is no input of the net; inputs are {sorted(self.inputs)}."
            )

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The picture (H, W, K) as an input (K', H', W').

        Raises:
            BlobError: no such input.
        """
        self._check(in_)
        made = np.asarray(data).astype(np.float32, copy=False)
        size = self.inputs[in_][2:]
        if tuple(made.shape[:2]) != size:
            made = resize_image(made, size)
        if in_ in self.transpose:
            made = made.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            made = made[list(self.channel_swap[in_])]
        if in_ in self.raw_scale:
            made = made * np.float32(self.raw_scale[in_])
        if in_ in self.mean:
            made = made - self.mean[in_]
        if in_ in self.input_scale:
            made = made * np.float32(self.input_scale[in_])
        return made

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """Undo :meth:`preprocess` except for the resizing.

        Raises:
            BlobError: no such input.
        """
        self._check(in_)
        made = np.array(data, np.float32).squeeze()
        if made.ndim == 2:  # one channel
            made = made[None]
        if in_ in self.input_scale:
            made = made / np.float32(self.input_scale[in_])
        if in_ in self.mean:
            made = made + self.mean[in_]
        if in_ in self.raw_scale:
            made = made / np.float32(self.raw_scale[in_])
        if in_ in self.channel_swap:
            made = made[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            made = made.transpose(np.argsort(self.transpose[in_]).tolist())
        return made

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Order of the axes: (2, 0, 1) brings (H, W, K) to (K, H, W).

        Raises:
            ShapeError: not one index for each axis of a picture.
        """
        self._check(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise ShapeError(
                f"set_transpose('{in_}'): {tuple(order)} has {len(order)} axes, "
                f"an input has {len(self.inputs[in_]) - 1}."
            )
        self.transpose[in_] = tuple(order)

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Order of the channels: (2, 1, 0) brings RGB to BGR.

        Raises:
            ShapeError: not one index for each channel.
        """
        self._check(in_)
        if len(order) != self.inputs[in_][1]:
            raise ShapeError(
                f"set_channel_swap('{in_}'): {tuple(order)} names {len(order)} channels, "
                f"the input has {self.inputs[in_][1]}."
            )
        if not all(0 <= channel < len(order) for channel in order):
            raise ShapeError(
                f"set_channel_swap('{in_}'): {tuple(order)}; the channels are 0 to "
                f"{len(order) - 1}."
            )
        self.channel_swap[in_] = tuple(order)

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Factor before the mean: 255 for nets trained on bytes."""
        self._check(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """What is subtracted: one number for each channel, or a mean image (K, H, W).

        A mean image of another height or width is resized, as newer versions of pycaffe do.

        Raises:
            ShapeError: its channels do not fit the input.
        """
        self._check(in_)
        values = np.asarray(mean, np.float32)
        shape = self.inputs[in_]
        if values.ndim == 1:
            if len(values) not in (shape[1], 1):
                raise ShapeError(
                    f"set_mean('{in_}'): {len(values)} numbers for {shape[1]} channels."
                )
            values = values[:, None, None]
        else:
            if values.ndim == 2:
                values = values[None]
            if values.ndim == 4 and values.shape[0] == 1:
                values = values[0]
            if values.ndim != 3 or values.shape[0] != shape[1]:
                raise ShapeError(
                    f"set_mean('{in_}'): a mean image of shape {values.shape}, the input wants "
                    f"{shape[1:]}; give one with its channels, or mean.mean(1).mean(1)."
                )
            values = resize_image(values.transpose(1, 2, 0), shape[2:]).transpose(2, 0, 1)
        self.mean[in_] = values

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Factor after the mean."""
        self._check(in_)
        self.input_scale[in_] = scale


def check_batch(arrays: Sequence[np.ndarray]) -> None:
    """Refuse pictures that cannot be stacked.

    Raises:
        DataError: none, or arrays of other axes than (H, W, K).
    """
    if not len(arrays) or any(np.ndim(array) != 3 for array in arrays):
        shapes = [np.shape(array) for array in arrays][:3]
        raise DataError(f"needs pictures (H, W, K) as caffe.io.load_image gives; found {shapes}.")
