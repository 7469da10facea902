"""Records: defaults, presence, merging, equality, copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema import Record, Unknown, parse_text, unknown_fields
from caffe_bridge.schema.record import RawUnknown


def test_defaults_and_presence() -> None:
    layer = Record("LayerParameter")
    assert (layer.name, layer.bottom, layer.phase) == ("", (), "TRAIN")
    assert layer.convolution_param.group == 1
    assert layer.lrn_param.beta == 0.75
    assert layer.batch_norm_param.eps == 1e-5
    assert not layer.has("convolution_param")
    layer.mutable("convolution_param").group = 2
    assert layer.convolution_param.group == 2
    assert layer.convolution_param.has("group")
    assert not layer.convolution_param.has("stride")
    layer.clear("convolution_param")
    assert layer.convolution_param.group == 1
    assert layer.message_name == "LayerParameter"
    assert layer.has_field("bottom")
    assert not layer.has_field("bottoms")


def test_repeated_fields() -> None:
    layer = Record("LayerParameter", bottom=("a", "b"))
    layer.append("bottom", "c")
    assert layer.bottom == ["a", "b", "c"]
    assert layer.add("blobs", num=3).num == 3
    assert len(layer.blobs) == 1
    layer.bottom = []
    assert not layer.has("bottom")
    assert [field.name for field, _ in layer.items()] == ["blobs"]
    with pytest.raises(SchemaError, match=r"LayerParameter.bottom is not a repeated message"):
        layer.add("bottom")


@pytest.mark.parametrize("use", ["get", "set", "has", "clear", "append"])
def test_wrong_names(use: str) -> None:
    record = Record("BlobShape")
    actions = {
        "get": lambda: record.dims,
        "set": lambda: setattr(record, "dims", 1),
        "has": lambda: record.has("dims"),
        "clear": lambda: record.clear("dims"),
        "append": lambda: record.append("dims", 1),
    }
    with pytest.raises(AttributeError, match="BlobShape has no field 'dims'"):
        actions[use]()


def test_merge_follows_protobuf() -> None:
    one = parse_text(
        "name: 'a' bottom: 'x' relu_param { negative_slope: 1 } blobs { data: 1 }", "LayerParameter"
    )
    two = parse_text(
        "name: 'b' bottom: 'y' relu_param { engine: CAFFE } blobs { data: 2 } odd: 1",
        "LayerParameter",
    )
    one.merge(two)
    assert (one.name, one.bottom) == ("b", ["x", "y"])
    assert (one.relu_param.negative_slope, one.relu_param.engine) == (1, "CAFFE")
    assert [list(blob.data) for blob in one.blobs] == [[1], [2]]
    assert unknown_fields(one) == [("odd", 1)]
    one.blobs[1].num = 5
    assert not two.blobs[0].has("num")
    one.blobs[0].merge(two.blobs[0])
    assert list(one.blobs[0].data) == [1, 2]


def test_equality_sees_values_and_unknown_fields() -> None:
    def blob(*values: float) -> Record:
        return Record("BlobProto", data=np.array(values, np.float32))

    assert blob(1, np.nan) == blob(1, np.nan)
    assert blob(1, 2) != blob(1, 3)
    assert blob(1) != Record("BlobProto")
    assert Record("BlobShape", dim=[]) == Record("BlobShape")
    assert Record("BlobShape") != Record("BlobProto")
    assert Record("BlobShape") != 3
    odd = Record("BlobShape")
    odd.unknown = [Unknown("a", "1", 3)]
    assert odd != Record("BlobShape")
    same = Record("BlobShape")
    same.unknown = [Unknown("a", "1", 8)]
    assert odd == same
    same.raw_unknown = [RawUnknown(9, 0, b"\x01")]
    assert odd != same


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, Record.copy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_copies(duplicate) -> None:
    net = parse_text("name: 'n' layer { name: 'a' odd { b: 1 } }", "NetParameter", "n.prototxt")
    made = duplicate(net)
    assert made == net
    assert made is not net
    assert made.origin == "n.prototxt"
    assert made.layer[0].where() == "n.prototxt:1"
    assert unknown_fields(made) == [("layer[a].odd", 1)]


def test_deep_copies_are_apart_but_share_weights() -> None:
    values = np.zeros(3, np.float32)
    layer = Record("LayerParameter", blobs=[Record("BlobProto", data=values)])
    layer.mutable("relu_param").negative_slope = 0.5
    made = layer.copy()
    made.relu_param.negative_slope = 0.25
    made.blobs[0].num = 1
    assert layer.relu_param.negative_slope == 0.5
    assert not layer.blobs[0].has("num")
    assert made.blobs[0].data is values


def test_text_of_a_record_hides_weights() -> None:
    blob = Record("BlobProto", num=2, data=np.zeros(3, np.float32))
    assert repr(blob) == "BlobProto(num=2)"
    blob.line = 7
    assert blob.where() == "line 7"
    blob.origin = "a.prototxt"
    assert blob.where() == "a.prototxt:7"


def test_unknown_binary_fields_are_listed() -> None:
    net = Record("NetParameter", layer=[Record("LayerParameter")])
    net.layer[0].raw_unknown = [RawUnknown(9000, 0, b"\x01")]
    assert unknown_fields(net) == [("layer.#9000", 0)]
