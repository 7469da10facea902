"""BlobProto: shapes, values and dialects of stored blobs."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema.record import Record

Shape = tuple[int, ...]
_RAW = {"FLOAT": "<f4", "DOUBLE": "<f8", "FLOAT16": "<f2", "INT": "<i4", "UINT": "<u4"}
_CHUNK = 1 << 24


class FileArray:
    """A run of numbers inside an open, memory-mapped file.

    ``numpy.asarray`` gives a view without copying; :meth:`read_into` reads straight from the file
    into its destination, so that loading needs no memory beyond the destination.
    """

    def __init__(self, file: MappedFile, offset: int, count: int, dtype: str) -> None:
        self.file, self.offset, self.size, self.dtype = file, offset, count, np.dtype(dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        view = np.frombuffer(self.file.map, self.dtype, self.size, self.offset)
        if dtype is not None and np.dtype(dtype) != view.dtype:
            return view.astype(dtype)
        return view.copy() if copy else view

    def __len__(self) -> int:
        return self.size

    def read_into(self, out: np.ndarray) -> None:
        """Fill ``out`` (as many numbers, any shape) with the values.

        Raises:
            SchemaError: the file shrank meanwhile.
        """
        if out.dtype != self.dtype or out.size != self.size or not out.flags.c_contiguous:
            np.copyto(out, np.asarray(self).reshape(out.shape))
            return
        target = out.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(target):
            part = target[done : done + _CHUNK]
            read = os.preadv(self.file.descriptor, [part], self.offset + done)
            if read <= 0:
                raise SchemaError(f"{self.file.path}: the file shrank while it was being read.")
            done += read


class MappedFile:
    """A file mapped for reading; closed when the last array that uses it goes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.descriptor = os.open(self.path, os.O_RDONLY)
        self.map = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ)

    def bulk(self, offset: int, data: memoryview, dtype: str) -> FileArray:
        """The bulk reader for :func:`caffe_bridge.schema.wire.decode`."""
        return FileArray(self, offset, len(data) // int(dtype[-1]), dtype)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@dataclass(frozen=True)
class StoredBlob:
    """Shape and values of one stored blob.

    ``legacy`` marks the four-number shape (num, channels, height, width) of old files, which
    Caffe compares from the end and pads with ones.
    """

    shape: Shape
    legacy: bool
    values: Any

    @property
    def count(self) -> int:
        """Number of values stored."""
        return (
            int(np.size(self.values))
            if not isinstance(self.values, FileArray)
            else len(self.values)
        )

    def array(self) -> np.ndarray:
        """Values in their shape (a view where possible)."""
        return np.asarray(self.values).reshape(self.shape)

    def current_shape(self, kind: str, index: int) -> Shape:
        """The shape that today's layers give this blob: the padding of old files goes.

        Args:
            kind: type of the layer.
            index: which of the layer's blobs it is.
        """
        if not self.legacy:
            return self.shape
        if index == 0 and kind in ("InnerProduct", "Embed"):
            return self.shape[-2:]
        filters = index == 0 and kind in ("Convolution", "Deconvolution")
        return self.shape[-1:] if self.shape[:3] == (1, 1, 1) and not filters else self.shape

    def read_into(self, out: np.ndarray) -> None:
        """Copy the values into ``out`` (same count, any shape)."""
        if isinstance(self.values, FileArray):
            self.values.read_into(out)
        else:
            np.copyto(out, np.asarray(self.values).reshape(out.shape))

    def fits(self, shape: Sequence[int]) -> bool:
        """Caffe's ShapeEquals: equal, or equal after padding a legacy shape with leading ones."""
        if not self.legacy:
            return tuple(shape) == self.shape
        if len(shape) > 4:
            return False
        return (1,) * (4 - len(shape)) + tuple(shape) == self.shape


def stored_blob(record: Record, gradient: bool = False) -> StoredBlob:
    """The data (or diff) of a BlobProto, double data preferred as Caffe does.

    Raises:
        SchemaError: the number of values is not the product of the shape.
    """
    double, single, raw = (
        ("double_diff", "diff", "raw_diff") if gradient else ("double_data", "data", "raw_data")
    )
    if record.has(double):
        values: Any = getattr(record, double)
    elif record.has(single):
        values = getattr(record, single)
    elif record.has(raw):
        kind = getattr(record, f"{raw}_type")
        data = getattr(record, raw)
        if kind not in _RAW or len(data) % np.dtype(_RAW[kind]).itemsize:
            raise SchemaError(
                f"{record.origin or 'BlobProto'}: {raw} holds {len(data)} bytes of type {kind}; "
                f"read are whole numbers of {', '.join(_RAW)}."
            )
        values = np.frombuffer(data, _RAW[kind])
    else:
        values = np.zeros(0, np.float32)
    legacy = any(record.has(name) for name in ("num", "channels", "height", "width"))
    if legacy:
        shape: Shape = (record.num, record.channels, record.height, record.width)
    else:
        shape = tuple(int(d) for d in record.shape.dim)
    blob = StoredBlob(shape, legacy, values)
    wanted = int(np.prod(shape, dtype=np.int64))
    if blob.count not in (wanted, 0):
        raise SchemaError(
            f"{record.origin or 'BlobProto'}: a blob of shape {shape} holds {blob.count} values, "
            f"expected {wanted}; the file is damaged."
        )
    return blob


def make_blob(array: np.ndarray) -> Record:
    """A BlobProto with the array's shape and values, as Caffe writes them."""
    double = array.dtype == np.float64
    record = Record("BlobProto", shape=Record("BlobShape", dim=[int(d) for d in array.shape]))
    setattr(record, "double_data" if double else "data", array.reshape(-1))
    return record
