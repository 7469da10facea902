from __future__ import annotations

import pytest
from google.protobuf import text_format

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import GraphError, SchemaError
from caffe_bridge.pycaffe import layers as L  # noqa: N812
from caffe_bridge.pycaffe import params as P  # noqa: N812
from caffe_bridge.pycaffe.proto import caffe_pb2
from tests.pycaffe.nets import write


def lenet() -> caffe.NetSpec:
    n = caffe.NetSpec()
    n.data, n.label = L.DummyData(
        shape=[{"dim": [8, 1, 28, 28]}, {"dim": [8]}], transform_param={"scale": 1 / 255}, ntop=2
    )
    n.conv1 = L.Convolution(
        n.data, kernel_size=5, num_output=20, weight_filler={"type": "xavier"},
        param=[{"lr_mult": 1}, {"lr_mult": 2}],
    )  # fmt: skip
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool1, num_output=10, weight_filler={"type": "xavier"})
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10)
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n


def built(proto: object) -> caffe.Net:
    return caffe.Net(write("made.prototxt", str(proto)), caffe.TRAIN)


def test_lenet_can_be_built() -> None:
    proto = lenet().to_proto()
    assert proto.layer[0].name == "data"
    relu = next(layer for layer in proto.layer if layer.name == "relu1")
    assert list(relu.top) == list(relu.bottom) == ["ip1"]
    assert proto.layer[2].pooling_param.pool == P.Pooling.MAX
    assert [p.lr_mult for p in proto.layer[1].param] == [1, 2]
    net = built(proto)
    assert set(net.layer_dict) == {"data", "conv1", "pool1", "ip1", "relu1", "ip2", "loss"}


def test_text_format_reads_it_back() -> None:
    proto = lenet().to_proto()
    again = caffe_pb2.NetParameter()
    text_format.Merge(str(proto), again)
    assert again == proto


def test_functional_form_names_automatically() -> None:
    data = L.Input(shape={"dim": [1, 2]})
    one = L.InnerProduct(data, num_output=3)
    two = L.InnerProduct(one, num_output=3)
    proto = caffe.to_proto(L.EuclideanLoss(one, two))
    names = [layer.name for layer in proto.layer]
    assert names == ["Input1", "InnerProduct1", "InnerProduct2", "EuclideanLoss1"]
    assert two.to_proto().layer[-1].name == "InnerProduct2"
    built(proto)


def test_no_tops_and_anonymous_tops() -> None:
    n = caffe.NetSpec()
    n.data, n.unused = L.DummyData(shape=[{"dim": [3]}, {"dim": [3]}], ntop=2)
    n.silence = L.Silence(n.unused, ntop=0)
    proto = n.to_proto()
    assert [layer.name for layer in proto.layer] == ["data", "silence"]
    assert not proto.layer[1].top
    assert list(built(proto).layer_dict) == ["data", "silence"]


def test_items_work_like_attributes() -> None:
    n = caffe.NetSpec()
    n["a/b"] = L.Input(shape={"dim": [1]})
    assert n["a/b"] is n.tops["a/b"]
    assert "a/b" in n
    assert n.to_proto().layer[0].name == "a/b"
    del n["a/b"]
    with pytest.raises(AttributeError, match="no top 'x'"):
        _ = n.x


def test_wrong_use_is_explained() -> None:
    with pytest.raises(TypeError, match=r"L\.ReLU: bottom 0 is 'data'"):
        L.ReLU("data")
    data = L.Input(shape={"dim": [1]})
    with pytest.raises(GraphError, match=r"L\.Convolution: .*num_outputs"):
        caffe.to_proto(L.Convolution(data, num_outputs=3))
    with pytest.raises(SchemaError, match=r"num_output: cannot hold 'x'"):
        caffe.to_proto(L.Convolution(data, num_output="x"))


def test_caffe_pb2_has_messages_enums_and_values() -> None:
    assert (caffe_pb2.TRAIN, caffe_pb2.TEST) == (caffe.TRAIN, caffe.TEST)
    assert caffe_pb2.Phase.Name(1) == "TEST"
    assert caffe_pb2.SolverParameter().base_lr == 0
    assert caffe_pb2.PoolingParameter.AVE == 1
    with pytest.raises(AttributeError, match="caffe_pb2 has no 'Nope'"):
        _ = caffe_pb2.Nope


def test_layer_type_list() -> None:
    types = caffe.layer_type_list()
    assert {"Data", "Convolution", "InnerProduct", "Python", "Softmax"} <= set(types)
    assert types == sorted(types)
