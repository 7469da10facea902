import gc
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch

from caffe_bridge.data import Prefetched, database, write_datums
from caffe_bridge.errors import BlobError, DataError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.verify import verify
from tests.helpers import SHARED, needs_shared

GOLDEN = SHARED / "golden" / "data"
CASES = sorted(p.stem for p in GOLDEN.glob("*.npz")) if GOLDEN.is_dir() else []
#: Greatest error relative to the greatest value of a blob, as for all numbers of a real Caffe.
GOLDEN_CLOSE = 1e-4

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 1, 4, 4), np.uint8)


def data_net(path: Path, tops: str = 'top: "x" top: "y"', more: str = "", batch: int = 2) -> str:
    return (
        f'layer {{ name: "d" type: "Data" {tops} data_param {{ source: "{path}" backend: LMDB '
        f"batch_size: {batch} }} {more} }}"
    )


@pytest.fixture
def lmdb_folder(tmp_path: Path) -> Path:
    write_datums(tmp_path / "db", IMAGES, range(5))
    return tmp_path / "db"


@needs_shared
@pytest.mark.golden
@pytest.mark.parametrize("case", CASES)
def test_five_batches_as_caffe_delivers_them(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    net = Net(f"{case}.prototxt", "TEST")
    with np.load(f"{case}.npz") as wanted:
        assert {key.split("/")[0] for key in wanted.files} == set("01234")
        for batch in range(5):
            net.forward()
            for key in (k for k in wanted.files if k.startswith(f"{batch}/")):
                want, got = wanted[key], net.values[key.split("/")[1]].numpy()
                assert got.shape == want.shape
                assert np.abs(got - want).max() <= GOLDEN_CLOSE * np.abs(want).max()


def test_data_feeds_the_layers_above(lmdb_folder: Path) -> None:
    text = data_net(lmdb_folder, more="transform_param { scale: 0.5 mean_value: 4 }")
    net = Net(parse_net(text + 'layer { name: "r" type: "ReLU" bottom: "x" top: "z" }', "TRAIN"))
    assert net.inputs == {"x": (2, 1, 4, 4), "y": (2,)}
    for first in (0, 2, 4):
        net.forward()
        at = np.arange(first, first + 2) % 5
        want = np.maximum((IMAGES[at].astype(np.float32) - 4) * 0.5, 0)
        np.testing.assert_array_equal(net.values["z"].numpy(), want)
        np.testing.assert_array_equal(net.values["y"].numpy(), at)


def test_data_without_label(lmdb_folder: Path) -> None:
    net = Net(parse_net(data_net(lmdb_folder, 'top: "x"')))
    assert list(net.forward()) == ["x"]


def test_a_caller_may_feed_all_tops_but_not_some(lmdb_folder: Path) -> None:
    net = Net(parse_net(data_net(lmdb_folder)))
    made = net({"x": torch.ones(1), "y": torch.zeros(1)})
    assert made["x"].item() == 1
    with pytest.raises(BlobError, match="input 'y' was not given"):
        net({"x": torch.ones(1)})
    np.testing.assert_array_equal(net.forward()["y"].numpy(), [0, 1])


def test_reset_and_seed(lmdb_folder: Path) -> None:
    text = data_net(lmdb_folder, more="transform_param { crop_size: 2 mirror: true }", batch=4)
    net = Net(parse_net(text, "TRAIN"))

    def batches() -> np.ndarray:
        return np.concatenate([net.forward()["x"].numpy() for _ in range(3)])

    layer = net.layer("d")
    layer.seed(3)
    first = batches()
    layer.reset()
    np.testing.assert_array_equal(batches(), first)
    layer.seed(4)
    assert not np.array_equal(batches(), first)


def test_the_phase_of_the_net_decides_the_crop(lmdb_folder: Path) -> None:
    text = data_net(lmdb_folder, more="transform_param { crop_size: 2 }", batch=5)
    centre = IMAGES[:, :, 1:3, 1:3]
    for phase, equal in (("TEST", True), ("TRAIN", False)):
        got = Net(parse_net(text, phase)).forward()["x"].numpy()
        assert np.array_equal(got, centre) == equal


def test_large_data_bases_are_read_ahead(
    lmdb_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not isinstance(Net(parse_net(data_net(lmdb_folder))).layer("d").source, Prefetched)
    monkeypatch.setattr(database, "CACHE_BYTES", 16)
    net = Net(parse_net(data_net(lmdb_folder)))
    source = net.layer("d").source
    assert isinstance(source, Prefetched) and source.depth == 4
    labels = np.concatenate([net.forward()["y"].numpy() for _ in range(5)])
    np.testing.assert_array_equal(labels, np.arange(10) % 5)
    source.close()


def test_train_and_test_net_share_a_data_base(lmdb_folder: Path) -> None:
    nets = [Net(parse_net(data_net(lmdb_folder), phase)) for phase in ("TRAIN", "TEST")]
    for net in nets:
        np.testing.assert_array_equal(net.forward()["y"].numpy(), [0, 1])
    del nets, net
    gc.collect()
    np.testing.assert_array_equal(
        Net(parse_net(data_net(lmdb_folder))).forward()["y"].numpy(), [0, 1]
    )


def test_exported_tops_are_graph_inputs(lmdb_folder: Path) -> None:
    relu = 'layer { name: "r" type: "ReLU" bottom: "x" top: "z" }'
    text = data_net(lmdb_folder, 'top: "x"') + relu
    result = verify(Net(parse_net(text)), batches=(1, 2))
    assert result.batches and {d.blob for d in result.differences} == {"z"}
    assert max(d.relative for d in result.differences) == 0


def test_a_missing_data_base_is_one_sentence_at_build_time(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        Net(parse_net(data_net(tmp_path / "gone")))
    assert str(error.value) == (
        f"d (Data) at <text>:1: no LMDB data base at '{tmp_path}/gone'; write it first or correct "
        f"the source (relative paths count from {Path.cwd()})."
    )


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ('type: "Data"', "takes 1 to 2 tops, found 0"),
        ('type: "ImageData" top: "x"', "takes 2 tops, found 1"),
        ('type: "MemoryData" top: "x"', "takes 2 tops, found 1"),
        ('type: "HDF5Data"', "takes at least 1 tops, found 0"),
        ('type: "DummyData"', "takes at least 1 tops, found 0"),
        ('type: "Data" top: "x" data_param { source: "x" }', "batch_size is 0"),
    ],
)
def test_arity_and_batch_size(layer: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(parse_net(f'layer {{ name: "d" {layer} }}'))


def test_image_data(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, 4, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    (tmp_path / "list.txt").write_text("a.png 6\n")
    net = Net(
        parse_net(
            'layer { name: "d" type: "ImageData" top: "x" top: "y" image_data_param { '
            f'source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/" }} }}'
        )
    )
    made = net.forward()
    np.testing.assert_array_equal(made["x"].numpy(), image.transpose(2, 0, 1)[None])
    assert made["y"].tolist() == [6]
    net.layer("d").source.close()


def test_hdf5_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["aux"] = np.eye(3), np.arange(3)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.h5")
    net = Net(
        parse_net(
            'layer { name: "d" type: "HDF5Data" top: "aux" top: "x" hdf5_data_param { '
            f'batch_size: 4 source: "{tmp_path}/list.txt" }} }}'
        )
    )
    made = net.forward()
    assert made["aux"].tolist() == [0, 1, 2, 0]
    np.testing.assert_array_equal(made["x"].numpy(), np.eye(3)[[0, 1, 2, 0]])


def test_memory_data() -> None:
    net = Net(
        parse_net(
            'layer { name: "d" type: "MemoryData" top: "x" top: "y" memory_data_param { '
            "batch_size: 2 channels: 1 height: 1 width: 2 } }"
        )
    )
    with pytest.raises(DataError, match="has no data yet"):
        net.forward()
    net.layer("d").set_input_arrays(np.arange(8).reshape(4, 1, 1, 2), np.arange(4))
    net.forward()
    assert net.forward()["x"].flatten().tolist() == [4, 5, 6, 7]
    assert net.values["y"].tolist() == [2, 3]


def test_dummy_data() -> None:
    net = Net(
        parse_net(
            'layer { name: "d" type: "DummyData" top: "x" top: "y" dummy_data_param { '
            'shape { dim: 2 } shape { dim: 3 dim: 1 } data_filler { type: "gaussian" std: 1 } } }'
        )
    )
    first, second = (net.forward() for _ in range(2))
    assert first["x"].shape == (2,) and first["y"].shape == (3, 1)
    assert not torch.equal(first["y"], second["y"])
