"""Nets as plain data: filtering by state, wiring of blobs, parameter sharing."""

from caffe_bridge.graph.convert import (
    layer_spec,
    load_net,
    net_record,
    net_spec,
    parse_net,
    read_net,
)
from caffe_bridge.graph.share import Slot, share
from caffe_bridge.graph.spec import LayerSpec, NetSpec, NetState, ParamSpec, Shape
from caffe_bridge.graph.ssa import Graph, Node, Value, wire

__all__ = [
    "Graph", "LayerSpec", "NetSpec", "NetState", "Node", "ParamSpec", "Shape", "Slot", "Value",
    "layer_spec", "load_net", "net_record", "net_spec", "parse_net", "read_net", "share", "wire",
]  # fmt: skip
