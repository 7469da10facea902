"""The official files of MNIST and CIFAR-10, and the data bases of Caffe's create scripts."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import numpy as np

from caffe_bridge.data.write import compute_mean, write_datums
from caffe_bridge.errors import DataError
from caffe_bridge.schema import write_blob

_MNIST = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
          "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}  # fmt: skip
_CIFAR = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_CIFAR_ROW = 1 + 3 * 32 * 32
Part = tuple[np.ndarray, np.ndarray]


def _bytes(folder: Path, name: str) -> tuple[bytes, Path]:
    """Content of a file or of its gzipped form; old mirrors write ``.`` for the last ``-``."""
    dotted = name.replace("-idx", ".idx")
    for candidate in (name, f"{name}.gz", dotted, f"{dotted}.gz"):
        path = folder / candidate
        if path.is_file():
            try:
                data = path.read_bytes()
                return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data), path
            except (OSError, EOFError) as error:
                raise DataError(f"{path}: cannot be read ({error}); download it again.") from None
    raise DataError(f"{folder}: has neither {name} nor {name}.gz; download the official files.")


def read_idx(data: bytes, where: str) -> np.ndarray:
    """The uint8 array of an IDX file.

    Raises:
        DataError: not such a file, or cut off.
    """
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise DataError(f"{where}: is no IDX file of bytes; download it again.")
    axes = data[3]
    head = 4 + 4 * axes
    shape = tuple(int(d) for d in np.frombuffer(data[4:head], ">u4"))
    if len(shape) != axes or len(data) - head != int(np.prod(shape, dtype=np.int64)):
        raise DataError(
            f"{where}: says it holds {shape} but has {len(data) - head} bytes of values; "
            "download it again."
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def read_mnist(folder: str | os.PathLike[str], part: str) -> Part:
    """Images (N, 1, 28, 28) and labels (N,) of the official files, gzipped or not.

    Args:
        folder: where they lie.
        part: "train" or "test".

    Raises:
        DataError: files are missing, damaged or do not belong together.
    """
    names = _MNIST[part]
    (image_bytes, image_path), (label_bytes, label_path) = (_bytes(Path(folder), n) for n in names)
    images = read_idx(image_bytes, str(image_path))
    labels = read_idx(label_bytes, str(label_path))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{image_path}: holds {images.shape}, {label_path.name} holds {labels.shape}; "
            "take both from one download."
        )
    return images[:, None], labels


def _cifar_batch(source: Path, name: str) -> bytes:
    if source.is_dir():
        inner = source / "cifar-10-batches-bin"
        return _bytes(inner if inner.is_dir() else source, name)[0]
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                if member.isfile() and Path(member.name).name == name:
                    stream = archive.extractfile(member)
                    return stream.read() if stream else b""
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{source}: is no readable tar archive ({error}).") from None
    raise DataError(f"{source}: has no {name}; use the binary version (cifar-10-binary.tar.gz).")


def read_cifar10(source: str | os.PathLike[str], part: str) -> Part:
    """Images (N, 3, 32, 32), RGB as in the files, and labels (N,).

    Args:
        source: folder of the binary version's batches, or its tar.gz.
        part: "train" or "test".

    Raises:
        DataError: files are missing or damaged.
    """
    rows = []
    for name in _CIFAR[part]:
        data = _cifar_batch(Path(source), name)
        if not data or len(data) % _CIFAR_ROW:
            raise DataError(
                f"{source}: {name} has {len(data)} bytes, no multiple of {_CIFAR_ROW}; "
                "download the binary version again."
            )
        rows.append(np.frombuffer(data, np.uint8).reshape(-1, _CIFAR_ROW))
    table = np.concatenate(rows)
    return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0]


def make_mnist(
    source: str | os.PathLike[str], target: str | os.PathLike[str], backend: str = "lmdb"
) -> list[Path]:
    """Write ``mnist_train_<backend>`` and ``mnist_test_<backend>`` with keys ``%08d``.

    Caffe source: examples/mnist/create_mnist.sh, convert_mnist_data.cpp.

    Raises:
        DataError: see :func:`read_mnist`; or a folder exists already.
    """
    parts = {part: read_mnist(source, part) for part in ("train", "test")}
    made = []
    for part, (images, labels) in parts.items():
        made.append(Path(target) / f"mnist_{part}_{backend}")
        write_datums(made[-1], images, labels, backend)
    return made


def make_cifar10(
    source: str | os.PathLike[str], target: str | os.PathLike[str], backend: str = "lmdb",
    pad: int = 0,
) -> list[Path]:  # fmt: skip
    """Write ``cifar10_train_<backend>``, ``cifar10_test_<backend>`` (keys ``%05d``) and the mean.

    The mean of the training images goes to ``mean.binaryproto``. With a ``pad`` the images get a
    border of so many zeros and the names begin with ``cifar10_pad<N>_``, the mean's too.
    Caffe source: examples/cifar10/create_cifar10.sh, convert_cifar_data.cpp.

    Raises:
        DataError: see :func:`read_cifar10`; or a folder exists already.
    """
    parts = {part: read_cifar10(source, part) for part in ("train", "test")}
    stem = f"cifar10_pad{pad}" if pad else "cifar10"
    made = []
    for part, (images, labels) in parts.items():
        made.append(Path(target) / f"{stem}_{part}_{backend}")
        border = ((0, 0), (0, 0), (pad, pad), (pad, pad))
        write_datums(made[-1], np.pad(images, border), labels, backend, b"%05d")
    mean = Path(target) / (f"{stem}_mean.binaryproto" if pad else "mean.binaryproto")
    write_blob(compute_mean(made[0], backend), mean)
    return [*made, mean]
