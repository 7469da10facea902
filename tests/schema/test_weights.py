"""Weights by layer name: loading, saving, and protobuf reading what was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema import (
    Record,
    load_weights,
    make_blob,
    parse_text,
    read_binary,
    save_weights,
    write_binary,
)
from caffe_bridge.schema.messages import message_class
from tests.shared import SHARED, needs_shared

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
BIAS = np.array([7, 8], np.float32)
NET = parse_text(
    "name: 'n' input: 'x' layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip' "
    "param { lr_mult: 2 } } layer { name: 'r/x' type: 'ReLU' odd: 3 } layer { name: 'twin' }",
    "NetParameter",
)


def layer(name: str, *arrays: np.ndarray) -> Record:
    return Record("LayerParameter", name=name, blobs=[make_blob(a) for a in arrays])


def test_the_first_layer_of_a_name_that_has_blobs_wins(tmp_path: Path) -> None:
    net = Record("NetParameter")
    net.layer = [layer("a"), layer("a", WEIGHT), layer("a", BIAS), layer("b")]
    found = load_weights(write_binary(net, tmp_path / "w.caffemodel"))
    assert np.array_equal(found.blobs["a"][0].array(), WEIGHT)
    assert found.blobs["b"] == []
    assert not found.partial


def test_save_then_load(tmp_path: Path) -> None:
    blobs = {"ip": [WEIGHT, BIAS], "twin": [WEIGHT, None]}
    path = save_weights(tmp_path / "w.caffemodel", NET, blobs)
    found = load_weights(path)
    assert found.source == str(path)
    assert found.types == {"ip": "InnerProduct", "r/x": "ReLU", "twin": ""}
    assert [b.shape for b in found.blobs["ip"]] == [(2, 3), (2,)]
    assert np.array_equal(found.blobs["ip"][0].array(), WEIGHT)
    assert len(found.blobs["twin"]) == 1
    assert found.blobs["r/x"] == []


def test_protobuf_reads_what_was_saved(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "w.caffemodel", NET, {"ip": [WEIGHT, BIAS.astype("f8")]})
    message = message_class("NetParameter").FromString(path.read_bytes())
    assert message.name == "n"
    ip = message.layer[0]
    assert list(ip.bottom) == ["data"]
    assert ip.param[0].lr_mult == 2
    assert list(ip.blobs[0].shape.dim) == [2, 3]
    assert list(ip.blobs[0].data) == list(WEIGHT.reshape(-1))
    assert list(ip.blobs[1].double_data) == [7, 8]


def test_saving_leaves_the_net_as_it_was(tmp_path: Path) -> None:
    before = NET.copy()
    save_weights(tmp_path / "w.caffemodel", NET, {"ip": [WEIGHT, BIAS]})
    assert before == NET
    assert not NET.layer[0].has("blobs")


def test_save_then_load_hdf5(tmp_path: Path) -> None:
    blobs = {"ip": [WEIGHT, BIAS], "twin": [None, BIAS]}
    found = load_weights(save_weights(tmp_path / "w.caffemodel.h5", NET, blobs))
    assert np.array_equal(found.blobs["ip"][0].array(), WEIGHT)
    assert found.blobs["twin"][0] is None
    assert found.blobs["r/x"] == []
    assert found.types == {}


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "w.caffemodel.h5", NET, {"ip": [WEIGHT]})
    renamed = path.rename(tmp_path / "w.caffemodel")
    assert load_weights(renamed).partial


def test_old_layers_are_upgraded(tmp_path: Path) -> None:
    old = parse_text("layers { name: 'c' type: CONVOLUTION } input: 'data'", "NetParameter")
    legacy = Record("BlobProto", num=1, channels=1, height=2, width=3, data=WEIGHT.reshape(-1))
    old.layers[0].blobs = [legacy]
    found = load_weights(write_binary(old, tmp_path / "w.caffemodel"))
    assert found.types == {"c": "Convolution"}
    assert found.blobs["c"][0].fits((2, 3))


def test_damaged_blobs_name_file_layer_and_index(tmp_path: Path) -> None:
    net = Record("NetParameter", layer=[layer("conv", WEIGHT, BIAS)])
    net.layer[0].blobs[1].mutable("shape").dim = [3]
    path = write_binary(net, tmp_path / "w.caffemodel")
    with pytest.raises(SchemaError, match=rf"{path}: layer 'conv', blob 1: a blob of shape \(3,\)"):
        load_weights(path)


@needs_shared
@pytest.mark.parametrize("name", ["lenet_mnist", "squeezenet_imagenet", "mtcnn_pnet"])
def test_real_models_survive_saving(name: str, tmp_path: Path) -> None:
    path = SHARED / "models" / name / "weights.caffemodel"
    found = load_weights(path)
    net = Record("NetParameter")
    for layer_name, kind in found.types.items():
        net.add("layer", name=layer_name, type=kind)
    arrays = {n: [b.array() for b in blobs] for n, blobs in found.blobs.items()}
    again = load_weights(save_weights(tmp_path / "copy.caffemodel", net, arrays))
    assert again.types == found.types
    for layer_name, blobs in found.blobs.items():
        for mine, theirs in zip(again.blobs[layer_name], blobs, strict=True):
            assert mine.shape == theirs.shape
            assert np.array_equal(mine.array(), theirs.array(), equal_nan=True)
    assert len(read_binary(tmp_path / "copy.caffemodel", "NetParameter").layer) == len(found.types)
