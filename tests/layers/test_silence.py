import numpy as np
import onnx
import pytest

from caffe_bridge import pycaffe
from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from caffe_bridge.onnx_export.verify import verify

TEXT = """
force_backward: true
layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "r" type: "ReLU" bottom: "x" top: "y" }
layer { name: "s" type: "Silence" bottom: "y" %s }
layer { name: "t" type: "TanH" bottom: "x" top: "z" }
"""


def test_the_bottoms_are_no_outputs() -> None:
    net = Net(parse_net(TEXT % ""))
    assert net.outputs == ["z"]
    model = export(net)
    assert [value.name for value in model.graph.output] == ["z"]
    assert isinstance(model, onnx.ModelProto)
    assert verify(net).passed


def test_the_gradient_is_zero() -> None:
    net = pycaffe.Net(parse_net(TEXT % ""))
    net.blobs["x"].data[...] = 1
    net.forward()
    net.blobs["y"].diff[...] = 7
    net.backward(z=np.zeros((2, 3)))
    assert not net.blobs["y"].diff.any()
    assert not net.blobs["x"].diff.any()


def test_it_has_no_tops() -> None:
    with pytest.raises(ShapeError, match=r"s \(Silence\).*takes 0 tops, found 1: q"):
        Net(parse_net(TEXT % 'top: "q"'))
