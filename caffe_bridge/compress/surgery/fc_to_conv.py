"""Fully connected layers as convolutions, so that a classifier slides over larger images.

An InnerProduct on C x H x W values is a convolution of kernel H x W and no padding:

    y_n = sum_{c,h,w} W[n, (c, h, w)] x[c, h, w] + b_n;      W'[n, c, h, w] = W[n, (c, h, w)].

One that follows it (perhaps after ReLU or Dropout) sees 1 x 1 values and becomes a 1 x 1
convolution. The outputs gain two axes of length 1. A Flatten in front of a layer is taken out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffe_bridge.compress.surgery.result import Surgery, opened, require_layers, spec_of
from caffe_bridge.compress.target import NetLike, WeightsLike, as_weights, label
from caffe_bridge.errors import PlanError
from caffe_bridge.graph import Node, Shape, net_record
from caffe_bridge.net import Net
from caffe_bridge.schema import Record

#: What a converted layer's name gains, so that nobody loads the old weights into it.
SUFFIX = "-conv"


def _flat_source(net: Net, makers: dict[int, Node], value: int) -> tuple[Node, Shape] | None:
    """The Flatten layer that makes a value, and the shape that it flattens."""
    node = makers.get(value)
    if node is None or node.layer.type != "Flatten":
        return None
    shape = net.built.shapes[node.inputs[0].index]
    param = node.layer.record.flatten_param
    whole = param.axis == 1 and param.end_axis % len(shape) == len(shape) - 1
    return (node, shape) if whole and len(shape) == 4 else None


def _refusal(layer: Record, shape: Shape, flat: Shape | None, converted: bool) -> str:
    if layer.inner_product_param.axis != 1:
        return "its axis is not 1"
    if len(shape) != 4 and flat is None and not converted:
        return f"its bottom of shape {shape} has no height and width"
    if any(spec.name for spec in layer.param):
        return "it shares its weight with another layer"
    return ""


def _convolution(layer: Record, kernel: tuple[int, int], bottom: str) -> Record:
    made = layer.copy()
    made.type, made.name, made.bottom = "Convolution", layer.name + SUFFIX, [bottom]
    old = layer.inner_product_param
    made.clear("inner_product_param")
    param = made.mutable("convolution_param")
    param.num_output = old.num_output
    if kernel[0] == kernel[1]:
        param.kernel_size = [kernel[0]]
    else:
        param.kernel_h, param.kernel_w = kernel
    for field in ("bias_term", "weight_filler", "bias_filler"):
        if old.has(field):
            setattr(param, field, getattr(old, field))
    return made


def _without_flatten(made: Surgery, net: Net, flattened: dict[str, str]) -> None:
    """Take out Flatten layers that nothing reads any more."""
    for name, top in flattened.items():
        if not any(top in layer.bottom for layer in made.net.layer) and top not in net.outputs:
            made.net.layer = [layer for layer in made.net.layer if layer.name != name]


def fc_to_conv(
    net: NetLike,
    weights: WeightsLike,
    layers: tuple[str, ...] = (),
    inputs: Mapping[str, Shape] | None = None,
) -> Surgery:
    """Replace the InnerProduct layers of the TEST net by convolutions.

    Args:
        net: path, record or spec; the kernels follow from its input shapes.
        weights: trained weights.
        layers: names; all InnerProduct layers when empty.
        inputs: shapes of the inputs that replace data layers.

    Raises:
        PlanError: a name that is no InnerProduct layer.
        BridgeError: the net cannot be built, or the weights do not belong to it.
    """
    stored = as_weights(weights)
    spec = spec_of(net, inputs)
    built = Net(spec, weights=stored)
    made = opened(net_record(spec), stored)
    require_layers(made.net, layers, ("InnerProduct",))
    records = {layer.name: layer for layer in made.net.layer}
    makers = {v.index: n for n in built.built.graph.nodes for v in n.outputs}
    tall: set[int] = set()
    flattened: dict[str, str] = {}
    for node in built.built.graph.nodes:
        name = node.layer.name
        if node.layer.type != "InnerProduct":
            if any(value.index in tall for value in node.inputs):
                tall.update(value.index for value in node.outputs)
            continue
        layer, value = records[name], node.inputs[0]
        shape = built.built.shapes[value.index]
        flat = _flat_source(built, makers, value.index)
        reason = _refusal(layer, shape, flat[1] if flat else None, value.index in tall)
        if layers and name not in layers:
            reason = "it was not named"
            if value.index in tall:
                raise PlanError(f"{label(layer)}: reads what a converted layer makes; name it too.")
        if reason:
            made.kept[name] = reason
            continue
        size = shape if len(shape) == 4 else flat[1] if flat else (*shape, 1, 1)
        bottom = value.blob if flat is None else flat[0].inputs[0].blob
        if flat is not None:
            flattened[flat[0].layer.name] = value.blob
        new = _convolution(layer, (size[2], size[3]), bottom)
        at = next(i for i, x in enumerate(made.net.layer) if x.name == name)
        made.net.layer = [*made.net.layer[:at], new, *made.net.layer[at + 1 :]]
        weight, *bias = made.blobs.pop(name)
        if layer.inner_product_param.transpose:
            weight = weight.T
        made.blobs[new.name] = [
            np.ascontiguousarray(weight).reshape(-1, *size[1:]), *(b.reshape(-1) for b in bias)
        ]  # fmt: skip
        tall.update(v.index for v in node.outputs)
        made.changed.append(name)
    _without_flatten(made, built, flattened)
    return made
