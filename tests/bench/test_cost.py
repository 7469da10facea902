"""Counted cost against numbers worked out by hand."""

from __future__ import annotations

import pytest

from caffe_bridge.bench import net_cost
from caffe_bridge.graph import parse_net
from caffe_bridge.layers.inner_product import InnerProduct
from caffe_bridge.net import Net

TEXT = """
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 4 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 group: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" param { name: "w" }
  inner_product_param { num_output: 10 bias_term: false } }
layer { name: "ip2" type: "InnerProduct" bottom: "conv" top: "ip2" param { name: "w" }
  inner_product_param { num_output: 10 bias_term: false } }
"""


def test_counts_by_hand() -> None:
    cost = net_cost(parse_net(TEXT))
    rows = {row.layer: row for row in cost.layers}
    assert rows["conv"].params == 6 * 2 * 9 + 6
    assert rows["conv"].macs == 2 * 6 * 64 * 2 * 9
    assert rows["conv"].activation_bytes == 4 * 2 * 6 * 64
    assert rows["conv"].tops == ((2, 6, 8, 8),)
    assert (rows["relu"].macs, rows["relu"].activation_bytes) == (0, 0)
    assert (rows["ip"].params, rows["ip2"].params) == (3840, 0)
    assert cost.params == 114 + 3840
    assert cost.param_bytes == 4 * cost.params
    assert cost.macs == 2 * 6 * 64 * 18 + 2 * 2 * 3840
    assert cost.activation_bytes == 4 * (2 * 4 * 64 + 2 * 6 * 64 + 2 * 2 * 10)
    assert cost.not_counted == ()


def test_a_net_counts_as_its_spec() -> None:
    assert net_cost(Net(parse_net(TEXT))) == net_cost(parse_net(TEXT))


def test_layers_that_cannot_tell_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InnerProduct, "macs", lambda self, shapes: None)
    cost = net_cost(parse_net(TEXT))
    assert cost.not_counted == ("ip", "ip2")
    assert cost.macs == 2 * 6 * 64 * 18
