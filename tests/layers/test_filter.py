import numpy as np
import pytest
import torch

from caffe_bridge import pycaffe
from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.verify import verify
from tests.helpers import OPSETS, layer_spec_of, net_text

SHAPES = [(5, 3, 2), (5, 2), (5, 1, 1)]
MARKS = [0.0, 1.0, 0.0, -2.0, 0.5]
KEPT = [1, 3, 4]


def feed(marks: list[float]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {f"in{i}": torch.randn(s, generator=generator) for i, s in enumerate(SHAPES)}
    made["in2"] = torch.tensor(marks).reshape(SHAPES[2])
    return made


@pytest.mark.parametrize(
    ("marks", "kept"), [(MARKS, KEPT), ([0.0] * 5, []), ([1.0] * 5, [0, 1, 2, 3, 4])]
)
def test_marked_items_are_kept(marks: list[float], kept: list[int]) -> None:
    net = Net(layer_spec_of('type: "Filter"', SHAPES, 2, "TEST"))
    assert net.shapes_for({})["out0"] == SHAPES[0]
    given = feed(marks)
    net(given)
    for index in range(2):
        assert torch.equal(net.values[f"out{index}"], given[f"in{index}"][kept])
    for opset in OPSETS:
        assert verify(net, feed=given, opset=opset).require("filter").worst == 0


def test_the_batch_may_change() -> None:
    net = Net(layer_spec_of('type: "Filter"', SHAPES, 2, "TEST"))
    assert verify(net, batches=(1, 3, 5)).passed


def test_gradient_reaches_the_kept_items_only() -> None:
    net = pycaffe.Net(parse_net("force_backward: true " + net_text('type: "Filter"', SHAPES, 2)))
    for name, value in feed(MARKS).items():
        net.blobs[name].data[...] = value.numpy()
    net.forward()
    assert net.blobs["out1"].data.shape == (3, 2)
    net.backward(out0=np.full((3, 3, 2), 2.0), out1=np.ones((3, 2)))
    want = np.zeros(5)
    want[KEPT] = 1
    np.testing.assert_array_equal(net.blobs["in0"].diff, 2 * want[:, None, None] * np.ones((3, 2)))
    np.testing.assert_array_equal(net.blobs["in1"].diff, want[:, None] * np.ones(2))
    assert not net.blobs["in2"].diff.any()


@pytest.mark.parametrize(
    ("shapes", "tops", "message"),
    [
        ([(5, 3), (5,)], 2, "has 2 bottoms and 2 tops"),
        ([(5, 3), (5, 2)], 1, r"selector 'in1' has shape \(5, 2\)"),
        ([(4, 3), (5,)], 1, r"bottom 'in0' has shape \(4, 3\) but selector 'in1' 5 items"),
    ],
)
def test_errors(shapes: list[tuple[int, ...]], tops: int, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of('type: "Filter"', shapes, tops, "TEST"))


ROWS = {
    "InnerProduct": "inner_product_param { num_output: 3 }", "ArgMax": "",
    "Pooling": "pooling_param { kernel_size: 2 stride: 2 }", "Dropout": "", "MVN": "",
    "SPP": "spp_param { pyramid_height: 2 }",
    "Convolution": "convolution_param { num_output: 3 kernel_size: 3 }", "Softmax": "", "LRN": "",
    "BatchNorm": "", "Scale": "", "Flatten": "",
}  # fmt: skip


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("kind", ROWS)
def test_layers_behind_it_take_batches_without_items(kind: str, phase: str) -> None:
    text = net_text('type: "Filter"', [(2, 4, 6, 6), (2,)], 1)
    text += f'layer {{ name: "z" type: "{kind}" bottom: "out0" top: "z" {ROWS[kind]} }}'
    net = Net(parse_net(text, phase), seed=1)
    x = torch.rand(2, 4, 6, 6, requires_grad=True)
    z = net({"in0": x, "in1": torch.zeros(2)})["z"]
    assert (len(z), z.numel()) == (0, 0)
    if z.requires_grad:
        z.sum().backward()
        assert x.grad is not None
        assert not x.grad.any()


@pytest.mark.parametrize(
    "kind", ["SoftmaxWithLoss", "HingeLoss", "MultinomialLogisticLoss", "Accuracy"]
)
def test_labels_behind_it_may_all_be_left_out(kind: str) -> None:
    text = net_text('type: "Filter"', [(2, 4), (2,), (2,)], 2)
    text += f'layer {{ name: "z" type: "{kind}" bottom: "out0" bottom: "out1" top: "z" }}'
    net = Net(parse_net(text, "TRAIN"), seed=1)
    made = net({"in0": torch.rand(2, 4), "in1": torch.zeros(2), "in2": torch.zeros(2)})
    assert made["z"].shape == ()
