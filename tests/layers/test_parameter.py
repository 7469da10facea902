import numpy as np
import torch

from caffe_bridge import pycaffe
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from caffe_bridge.onnx_export.verify import verify

TEXT = """
layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "p" type: "Parameter" top: "w" parameter_param { shape { dim: 2 dim: 3 } } }
layer { name: "c" type: "Concat" bottom: "x" bottom: "w" top: "y" }
"""
TANH = 'layer { name: "t" type: "TanH" bottom: "x" top: "z" }'


def test_the_blob_is_the_top() -> None:
    net = Net(parse_net(TEXT))
    blob = net.layer("p").blobs[0]
    assert not blob.detach().any()
    with torch.no_grad():
        blob.copy_(torch.arange(6.0).view(2, 3))
    out = net({"x": torch.zeros(2, 3)})["y"]
    assert torch.equal(out[:, 3:], blob)
    out.sum().backward()
    assert torch.equal(blob.grad, torch.ones(2, 3))
    assert verify(net).passed
    assert "p.blob0" in [value.name for value in export(net).graph.initializer]


def test_as_an_output_of_the_net() -> None:
    net = Net(parse_net(TEXT.split('layer { name: "c"')[0] + TANH))
    with torch.no_grad():
        net.layer("p").blobs[0].fill_(4)
    assert {d.blob for d in verify(net).require("parameter").differences} == {"w", "z"}
    assert net.outputs == ["w", "z"]


def test_gradient_in_pycaffe() -> None:
    net = pycaffe.Net(parse_net("force_backward: true" + TEXT), phase=pycaffe.TEST)
    net.params["p"][0].data[...] = 5
    net.forward()
    assert (net.blobs["y"].data[:, 3:] == 5).all()
    net.backward(y=np.full((2, 6), 2.0))
    assert (net.params["p"][0].diff == 2).all()
