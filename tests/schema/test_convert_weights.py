from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema import Record, load_weights, save_weights
from caffe_bridge.schema.convert_weights import convert_weights
from tests.helpers import SHARED, needs_shared

SHARED_NET = """
layer { name: "x/a" type: "InnerProduct" param { name: "w" } }
layer { name: "b" type: "InnerProduct" param { name: "w" } }
"""
VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    net = Record("NetParameter", name="n")
    for name, kind in (("x/a", "InnerProduct"), ("b", "InnerProduct"), ("relu", "ReLU")):
        net.add("layer", name=name, type=kind)
    return save_weights(tmp_path / "w.caffemodel", net, {"x/a": [VALUES, VALUES[0]], "b": [VALUES]})


def same(one: Path, other: Path) -> bool:
    first, second = load_weights(one).blobs, load_weights(other).blobs
    return {n: [b.array().tolist() for b in bs if b] for n, bs in first.items() if bs} == {
        n: [b.array().tolist() for b in bs if b] for n, bs in second.items() if bs
    }


def test_there_and_back_with_slashes(weights: Path, tmp_path: Path) -> None:
    hdf5 = convert_weights(weights, tmp_path / "w.caffemodel.h5")
    assert hdf5.read_bytes().startswith(b"\x89HDF")
    assert same(weights, hdf5)
    back = convert_weights(hdf5, tmp_path / "back.caffemodel")
    assert same(weights, back)


def test_shared_blobs_and_types_come_from_the_net(weights: Path, tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(SHARED_NET + 'layer { name: "relu" type: "ReLU" }')
    hdf5 = convert_weights(weights, tmp_path / "w.h5", net)
    assert load_weights(hdf5).blobs["b"] == []
    back = convert_weights(hdf5, tmp_path / "back.caffemodel", net)
    found = load_weights(back)
    assert found.types["x/a"] == "InnerProduct"
    shared = found.blobs["b"][0]
    assert shared is not None
    np.testing.assert_array_equal(shared.array(), VALUES)


def test_a_net_of_other_layers_is_refused(weights: Path, tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text('layer { name: "b" type: "InnerProduct" }')
    with pytest.raises(SchemaError, match="has no layer 'x/a' of"):
        convert_weights(weights, tmp_path / "w.h5", net)


def test_layers_without_blobs_may_be_missing_in_the_net(weights: Path, tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(SHARED_NET)
    assert set(load_weights(convert_weights(weights, tmp_path / "w.h5", net)).blobs) >= {"x/a"}


@needs_shared
def test_an_old_file_goes_to_hdf5_and_back_into_its_net(tmp_path: Path) -> None:
    folder = SHARED / "models" / "lenet_mnist"
    deploy, weights = folder / "deploy.prototxt", folder / "weights.caffemodel"
    hdf5 = convert_weights(weights, tmp_path / "w.h5")
    back = convert_weights(hdf5, tmp_path / "w.caffemodel", deploy)
    for path in (hdf5, back):
        found = load_weights(path).blobs
        assert [b.shape for b in found["conv1"] if b] == [(20, 1, 5, 5), (20,)]
        assert [b.shape for b in found["ip1"] if b] == [(500, 800), (500,)]
