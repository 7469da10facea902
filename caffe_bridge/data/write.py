"""Writing data bases and mean images as Caffe's tools do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

import numpy as np

from caffe_bridge.data.database import iterate
from caffe_bridge.data.datum import encode_datum
from caffe_bridge.data.leveldb import leveldb_writer
from caffe_bridge.data.lmdb import lmdb_writer
from caffe_bridge.data.records import Put
from caffe_bridge.errors import DataError

_Writer = Callable[[str | os.PathLike[str]], AbstractContextManager[Put]]
_WRITERS: dict[str, _Writer] = {
    "lmdb": lmdb_writer, "leveldb": leveldb_writer,
}  # fmt: skip


def record_writer(
    path: str | os.PathLike[str], backend: str = "lmdb"
) -> AbstractContextManager[Put]:
    """A function that puts keys and values into a new data base, for use in a ``with`` block.

    The folder appears only when the block succeeds.

    Raises:
        DataError: unknown backend, or (in the block's beginning) the folder exists already.
        BackendError: the backend's library is not installed.
    """
    writer = _WRITERS.get(backend.lower())
    if writer is None:
        raise DataError(f"'{path}': backend '{backend}' is not known; use lmdb or leveldb.")
    return writer(path)


def write_records(
    path: str | os.PathLike[str], records: Iterable[tuple[bytes, bytes]], backend: str = "lmdb"
) -> None:
    """Write keys and values as a data base; the folder appears only when it is complete.

    Raises:
        DataError: unknown backend, or the folder exists already.
        BackendError: the backend's library is not installed.
    """
    with record_writer(path, backend) as put:
        for key, value in records:
            put(key, value)


def write_datums(
    path: str | os.PathLike[str],
    images: np.ndarray,
    labels: Iterable[int],
    backend: str = "lmdb",
    key: bytes = b"%08d",
) -> None:
    """Write images as a data base of raw Datums with keys ``00000000``, ``00000001``, ...

    The folder appears only when it is complete. Caffe source: convert_mnist_data.cpp and
    convert_cifar_data.cpp.

    Args:
        path: folder to make.
        images: (N, C, H, W); uint8, BGR when in colour; other types are stored as float.
        labels: N integers.
        backend: ``lmdb`` or ``leveldb``.
        key: form of the keys; Caffe's CIFAR-10 has ``b"%05d"``.

    Raises:
        DataError: shapes do not fit, unknown backend, or the folder exists already.
        BackendError: the backend's library is not installed.
    """
    numbers = [int(label) for label in labels]
    if images.ndim != 4 or len(images) != len(numbers):
        raise DataError(
            f"'{path}': images of shape {images.shape} and {len(numbers)} labels; "
            "give images (N, C, H, W) and N labels."
        )

    def records() -> Iterator[tuple[bytes, bytes]]:
        for number, (image, label) in enumerate(zip(images, numbers, strict=True)):
            yield key % number, encode_datum(image, label)

    write_records(path, records(), backend)


def compute_mean(path: str | os.PathLike[str], backend: str = "lmdb") -> np.ndarray:
    """Mean image of a data base, float32 (C, H, W).

    Sums in double precision (Caffe's compute_image_mean in single). Write it with
    ``schema.write_blob`` to get a ``mean_file``.

    Raises:
        DataError: no data base there, or images of different shapes.
    """
    total: np.ndarray | None = None
    count = 0
    for image, _label in iterate(os.fspath(path), backend):
        if total is None:
            total = np.zeros(image.shape, np.float64)
        if image.shape != total.shape:
            raise DataError(
                f"'{path}': image {count} has shape {image.shape}, the first has {total.shape}; "
                "a mean image needs equal sizes."
            )
        total += image
        count += 1
    if total is None:
        raise DataError(f"'{path}': has no images.")
    return (total / count).astype(np.float32)
