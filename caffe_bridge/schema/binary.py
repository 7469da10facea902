"""Binary files (caffemodel, binaryproto): read without copying, written atomically."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from caffe_bridge.errors import SchemaError
from caffe_bridge.files import (
    HDF5_MAGIC,
    atomic_write,
    looks_like_text,
    refuse_impostor,
    require_file,
)
from caffe_bridge.schema import wire
from caffe_bridge.schema.blob import MappedFile, StoredBlob, make_blob, stored_blob
from caffe_bridge.schema.record import Record


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether the file starts with HDF5's signature."""
    with Path(path).open("rb") as stream:
        return stream.read(8) == HDF5_MAGIC


def read_binary(path: str | os.PathLike[str], message: str, what: str = "caffemodel") -> Record:
    """Read a binary protobuf file; weights stay in the (memory-mapped) file until they are used.

    Args:
        path: the file.
        message: message name, "NetParameter".
        what: what the file should be, for error messages.

    Raises:
        SchemaError: missing, empty, Git-LFS pointer, web page, text, truncated or another kind.
    """
    found = require_file(path, what)
    with found.open("rb") as stream:
        head = stream.read(512)
    refuse_impostor(found, head, what)
    if head.startswith(HDF5_MAGIC):
        raise SchemaError(f"{found}: is an HDF5 file, expected a binary {what}.")
    if looks_like_text(head):
        raise SchemaError(
            f"{found}: is a text file, expected a binary {what}; did you swap prototxt and weights?"
        )
    file = MappedFile(found)
    record = wire.decode(memoryview(file.map), message, str(path), file.bulk)
    if not any(True for _ in record.items()):
        raise SchemaError(
            f"{found}: has none of the fields of a {message}; it is not a {what}. "
            "Did you swap two file names?"
        )
    return record


def write_binary(record: Record, path: str | os.PathLike[str]) -> Path:
    """Write a record as a binary protobuf file, whole or not at all."""
    with atomic_write(path) as stream:
        for part in wire.encode_parts(record):
            stream.write(part)
    return Path(path)


def read_blob(path: str | os.PathLike[str]) -> StoredBlob:
    """Read a binaryproto file (a mean image: num, channels, height, width).

    Raises:
        SchemaError: see :func:`read_binary`.
    """
    return stored_blob(read_binary(path, "BlobProto", "binaryproto"))


def write_blob(array: np.ndarray, path: str | os.PathLike[str]) -> Path:
    """Write an array of up to four axes as a binaryproto with Caffe's legacy shape.

    Raises:
        SchemaError: more than four axes.
    """
    if array.ndim > 4:
        raise SchemaError(f"{path}: a binaryproto has up to 4 axes, the array has {array.ndim}.")
    record = make_blob(array.astype(np.float32))
    padded = (1,) * (4 - array.ndim) + array.shape
    record.clear("shape")
    record.num, record.channels, record.height, record.width = (int(d) for d in padded)
    return write_binary(record, path)
