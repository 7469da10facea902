"""Sizes of exported models that only a run knows: what follows them is open too."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export

GAUSS = "weight_filler { type: 'gaussian' std: 0.3 }"
DETECTOR = f"""
layer {{ name: 'data' type: 'Input' top: 'data' input_param {{ shape {{ dim: [1, 18, 4, 4] }} }} }}
layer {{ name: 'moves' type: 'Input' top: 'moves'
  input_param {{ shape {{ dim: [1, 36, 4, 4] }} }} }}
layer {{ name: 'info' type: 'Input' top: 'info' input_param {{ shape {{ dim: [1, 3] }} }} }}
layer {{ name: 'rois' type: 'Proposal' bottom: 'data' bottom: 'moves' bottom: 'info' top: 'rois'
  proposal_param {{ scale: [1, 2, 4] min_size: 4 post_nms_topn: 30 }} }}
layer {{ name: 'pool' type: 'ROIPooling' bottom: 'data' bottom: 'rois' top: 'pool'
  roi_pooling_param {{ pooled_w: 2 pooled_h: 2 spatial_scale: 0.0625 }} }}
layer {{ name: 'fc' type: 'InnerProduct' bottom: 'pool' top: 'fc'
  inner_product_param {{ num_output: 6 {GAUSS} }} }}
layer {{ name: 'shaped' type: 'Reshape' bottom: 'fc' top: 'shaped'
  reshape_param {{ shape {{ dim: [-1, 3, 2, 1] }} }} }}
layer {{ name: 'rows' type: 'Reshape' bottom: 'fc' top: 'rows'
  reshape_param {{ shape {{ dim: [-1, 3] }} }} }}
layer {{ name: 'both' type: 'Concat' bottom: 'shaped' bottom: 'shaped' top: 'both'
  concat_param {{ axis: 0 }} }}
"""
CHOSEN = f"""
layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: [4, 5] }} }} }}
layer {{ name: 's' type: 'Input' top: 's' input_param {{ shape {{ dim: [4] }} }} }}
layer {{ name: 'f' type: 'Filter' bottom: 'x' bottom: 's' top: 'f' }}
layer {{ name: 'ip' type: 'InnerProduct' bottom: 'f' top: 'ip'
  inner_product_param {{ num_output: 3 {GAUSS} }} }}
layer {{ name: 'more' type: 'InnerProduct' bottom: 'x' top: 'more'
  inner_product_param {{ num_output: 3 {GAUSS} }} }}
"""


def dims(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }


def agree(net: Net, model: onnx.ModelProto, feed: dict[str, torch.Tensor]) -> dict[str, int]:
    """Hold onnxruntime against torch; returns how many rows each output has."""
    wanted = net(feed)
    session = ort.InferenceSession(model.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    found = session.run(names, {name: value.numpy() for name, value in feed.items()})
    for name, values in zip(names, found, strict=True):
        np.testing.assert_allclose(values, wanted[name].detach().numpy(), rtol=1e-4, atol=1e-5)
    return {name: len(values) for name, values in zip(names, found, strict=True)}


@pytest.mark.parametrize("dynamic", [True, False])
def test_what_follows_proposals_has_their_number(dynamic: bool) -> None:
    net = Net(parse_net(DETECTOR), seed=1)
    model = export(net, dynamic_batch=dynamic)
    batch, found = "N" if dynamic else 1, dims(model)
    assert found["data"] == [batch, 18, 4, 4]
    assert found["rois"] == ["rois_size", 5]
    assert found["pool"] == ["rois_size", 18, 2, 2]
    assert found["shaped"] == ["rois_size", 3, 2, 1]
    assert found["rows"] == ["rois_size*2", 3]
    assert found["both"] == ["rois_size*2", 3, 2, 1]
    torch.manual_seed(0)
    feed = {name: torch.rand(shape) for name, shape in net.inputs.items()}
    rows = agree(net, model, feed | {"info": torch.tensor([[64.0, 64.0, 1.0]])})
    assert rows["both"] == rows["rows"] > 4


@pytest.mark.parametrize("dynamic", [True, False])
def test_what_follows_a_filter_has_the_number_of_its_items(dynamic: bool) -> None:
    net = Net(parse_net(CHOSEN), seed=1)
    model = export(net, dynamic_batch=dynamic)
    assert dims(model)["ip"] == ["f_size", 3]
    assert dims(model)["more"] == ["N" if dynamic else 4, 3]
    feed = {"x": torch.rand(4, 5), "s": torch.tensor([1.0, 0.0, 1.0, 1.0])}
    assert agree(net, model, feed) == {"ip": 3, "more": 4}


def test_layers_that_take_the_declared_number_only() -> None:
    text = CHOSEN + "layer { name: 'e' type: 'Eltwise' bottom: 'ip' bottom: 'more' top: 'e' }"
    model = export(Net(parse_net(text), seed=1))
    assert dims(model)["f"] == ["f_size", 5]
    assert dims(model)["e"] == ["N", 3]


def test_layers_that_take_some_numbers_only() -> None:
    """Rows of 4 hold the 12 values of four items, not those of any number."""
    text = CHOSEN + (
        "layer { name: 'r' type: 'Reshape' bottom: 'ip' top: 'r' "
        "reshape_param { shape { dim: [-1, 4] } } }"
    )
    found = dims(export(Net(parse_net(text), seed=1), dynamic_batch=False))
    assert found["f"] == ["f_size", 5]
    assert (found["ip"], found["r"]) == ([4, 3], [3, 4])


def test_layers_that_refuse_the_next_number_only() -> None:
    """Sevens of items hold 4 + 3 and 10007 + 3, the count that is tried first, but not one more."""
    text = CHOSEN + (
        "layer { name: 'z' type: 'Input' top: 'z' input_param { shape { dim: [3, 3] } } }"
        "layer { name: 'c' type: 'Concat' bottom: 'ip' bottom: 'z' top: 'c' "
        "concat_param { axis: 0 } }"
        "layer { name: 'r' type: 'Reshape' bottom: 'c' top: 'r' "
        "reshape_param { shape { dim: [-1, 21] } } }"
    )
    found = dims(export(Net(parse_net(text), seed=1), dynamic_batch=False))
    assert found["f"] == ["f_size", 5]
    assert (found["ip"], found["c"], found["r"]) == ([4, 3], [7, 3], [1, 21])
