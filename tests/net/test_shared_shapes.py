"""Blobs that layers share permissively with other shapes: one blob, seen in two forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net, RuntimeNet
from caffe_bridge.net.runtime import Runtime
from caffe_bridge.net.weights import share_weights
from caffe_bridge.onnx_export import export
from caffe_bridge.onnx_export.verify import verify
from caffe_bridge.schema import load_weights

SHARED = "param { name: 'w' share_mode: PERMISSIVE }"
TIED = f"""
layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: [2, 6] }} }} }}
layer {{ name: 'in' type: 'InnerProduct' bottom: 'x' top: 'code' {SHARED}
  inner_product_param {{ num_output: 4 bias_term: false weight_filler {{ type: 'xavier' }} }} }}
layer {{ name: 'out' type: 'InnerProduct' bottom: 'code' top: 'y' {SHARED}
  inner_product_param {{ num_output: 6 bias_term: false weight_filler {{ type: 'xavier' }} }} }}
layer {{ name: 'loss' type: 'Reduction' bottom: 'y' top: 'loss' loss_weight: 1
  reduction_param {{ operation: SUMSQ }} }}
"""
X = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 6)).astype(np.float32))


def test_values_and_gradients_are_those_of_one_blob(tmp_path: Path) -> None:
    net = Net(parse_net(TIED), seed=3)
    assert [blob.value.shape for blob in net.learnable] == [(4, 6)]
    weight = net.learnable[0].value
    assert [tuple(layer.blobs[0].shape) for layer in net.built.layers[1:3]] == [(4, 6), (6, 4)]
    net.forward_backward({"x": X})
    twin = weight.detach().clone().requires_grad_()
    y = X @ twin.T @ twin.reshape(6, 4).T
    y.square().sum().backward()
    torch.testing.assert_close(net.fetch("y"), y.detach())
    torch.testing.assert_close(weight.grad, twin.grad)
    path = net.save(tmp_path / "w.caffemodel", [weight.grad])
    stored = load_weights(path).blobs
    assert [stored[name][0].shape for name in ("in", "out")] == [(4, 6), (6, 4)]
    again = Net(parse_net(TIED), weights=path)
    torch.testing.assert_close(again({"x": X})["loss"], net({"x": X})["loss"])
    hdf5 = Net(parse_net(TIED), weights=net.save(tmp_path / "w.caffemodel.h5"))
    torch.testing.assert_close(hdf5({"x": X})["loss"], net({"x": X})["loss"])


def test_a_net_without_the_sharing_uses_the_values_in_its_own_shape() -> None:
    net, apart = Net(parse_net(TIED), seed=3), Net(parse_net(TIED.replace(SHARED, "")), seed=4)
    share_weights(apart.built, net.built)
    torch.testing.assert_close(apart({"x": X})["loss"], net({"x": X})["loss"])
    with torch.no_grad():
        net.learnable[0].value.mul_(2)
    torch.testing.assert_close(apart({"x": X})["loss"], net({"x": X})["loss"])


def test_onnx_holds_both_forms() -> None:
    net = Net(parse_net(TIED), seed=3)
    assert verify(net, export(net)).passed


@pytest.mark.parametrize(
    "other", ["num_output: 6 kernel_h: 1 kernel_w: 9", "num_output: 2 kernel_h: 9 kernel_w: 3"]
)
def test_filters_in_channels_last(other: str) -> None:
    """Memory order must not show through the other shape."""
    text = "".join(
        f"layer {{ name: '{name}' type: 'Convolution' bottom: 'x' top: '{name}' {SHARED}"
        f" convolution_param {{ {form} bias_term: false weight_filler {{ type: 'xavier' }} }} }}\n"
        for name, form in (("a", "num_output: 6 kernel_size: 3"), ("b", other))
    )
    entry = "layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: [1, 4, 9, 9] } } }"
    spec, x = parse_net(entry + text), torch.rand(1, 4, 9, 9)
    plain = Net(spec, seed=1)
    wide = RuntimeNet(spec, Runtime(channels_last=True))
    wide.learnable[0].value.data.copy_(plain.learnable[0].value)
    for name, values in plain({"x": x}).items():
        torch.testing.assert_close(wide({"x": x})[name], values)
