from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.data import decode_datum, open_records
from caffe_bridge.data.official import make_cifar10, make_mnist, read_cifar10, read_idx, read_mnist
from caffe_bridge.errors import DataError
from caffe_bridge.schema import decode, read_blob
from tests.shared import SHARED, needs_shared

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 28, 28)).astype(np.uint8)
LABELS = np.arange(5, dtype=np.uint8)
ROWS = RNG.integers(0, 10, (4, 3073)).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(IMAGES))
        data = gzip.compress(idx(LABELS))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(data)
    return tmp_path


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        (folder / name).write_bytes(ROWS.tobytes())
    return tmp_path


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_mnist_records(mnist: Path, backend: str) -> None:
    train, test = make_mnist(mnist, mnist, backend)
    assert [p.name for p in (train, test)] == [f"mnist_train_{backend}", f"mnist_test_{backend}"]
    reader = open_records(str(train), backend)
    for number in range(5):
        key, value, _ = reader.take()
        image, label = decode_datum(value, "")
        assert (key, label, image.shape) == (b"%08d" % number, number, (1, 28, 28))
        np.testing.assert_array_equal(image[0], IMAGES[number])
        assert not decode(value, "Datum").has("encoded")
    reader.close()


def test_cifar10_records_and_mean(cifar: Path) -> None:
    train, _test, mean = make_cifar10(cifar, cifar)
    reader = open_records(str(train), "lmdb")
    assert reader.count() == 20
    key, value, _ = reader.take()
    image, label = decode_datum(value, "")
    assert (key, label) == (b"00000", ROWS[0, 0])
    np.testing.assert_array_equal(image.reshape(-1), ROWS[0, 1:])
    reader.close()
    want = ROWS[:, 1:].mean(0).reshape(1, 3, 32, 32)
    np.testing.assert_allclose(read_blob(mean).array(), want, rtol=1e-6)


def test_cifar10_with_a_border(cifar: Path) -> None:
    made = make_cifar10(cifar, cifar, pad=2)
    assert [path.name for path in made] == [
        "cifar10_pad2_train_lmdb", "cifar10_pad2_test_lmdb", "cifar10_pad2_mean.binaryproto",
    ]  # fmt: skip
    reader = open_records(str(made[0]), "lmdb")
    image, _label = decode_datum(reader.take()[1], "")
    reader.close()
    assert image.shape == (3, 36, 36)
    np.testing.assert_array_equal(image[:, 2:-2, 2:-2].reshape(-1), ROWS[0, 1:])
    assert image.sum() == ROWS[0, 1:].astype(int).sum()
    assert read_blob(made[2]).array().shape == (1, 3, 36, 36)


def test_cifar10_from_the_archive(cifar: Path) -> None:
    archive = cifar / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as made:
        made.add(cifar / "cifar-10-batches-bin", "cifar-10-batches-bin")
    images, labels = read_cifar10(archive, "test")
    assert images.shape == (4, 3, 32, 32)
    np.testing.assert_array_equal(labels, ROWS[:, 0])


def test_missing_and_damaged_files(mnist: Path, cifar: Path) -> None:
    with pytest.raises(DataError, match="is no IDX file"):
        read_idx(b"\x00\x00\x0d\x01", "x")
    with pytest.raises(DataError, match="has 3 bytes of values"):
        read_idx(idx(LABELS)[:-2], "x")
    (mnist / "train-images-idx3-ubyte").write_bytes(idx(IMAGES[:3]))
    with pytest.raises(DataError, match="take both from one download"):
        read_mnist(mnist, "train")
    (mnist / "train-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match="has neither"):
        read_mnist(mnist, "train")
    (cifar / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"12")
    with pytest.raises(DataError, match="no multiple of 3073"):
        read_cifar10(cifar, "test")
    broken = cifar / "x.tar.gz"
    broken.write_bytes(io.BytesIO(b"junk").getvalue())
    with pytest.raises(DataError, match="no readable tar"):
        read_cifar10(broken, "test")


@needs_shared
def test_the_official_mnist() -> None:
    images, labels = read_mnist(SHARED / "datasets" / "mnist", "test")
    assert images.shape == (10000, 1, 28, 28)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
