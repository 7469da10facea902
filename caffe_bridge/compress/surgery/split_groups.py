"""A convolution of g groups as g parallel convolutions between a Slice and a Concat.

With the channels of x in g equal runs x_1 ... x_g, a grouped convolution is

    y = concat(W_1 * x_1 + b_1, ..., W_g * x_g + b_g),

so the parts are the runs of filters themselves and nothing is approximated. The authors of Force
Regularization split AlexNet like this by hand, because their force does not know groups. A
Deconvolution stores its groups along the same first axis, that of its bottom's channels.
"""

from __future__ import annotations

import numpy as np

from caffe_bridge.compress.surgery.result import Surgery, opened, require_layers
from caffe_bridge.compress.target import NetLike, WeightsLike, label
from caffe_bridge.errors import PlanError, WeightError
from caffe_bridge.schema import Record

TYPES = ("Convolution", "Deconvolution")
#: What the added layers take over from the layer that they stand beside.
_RULES = ("include", "exclude", "phase")


def _beside(layer: Record, name: str, kind: str, bottom: list[str], top: list[str]) -> Record:
    made = Record("LayerParameter", name=name, type=kind, bottom=bottom, top=top)
    for rule in _RULES:
        if layer.has(rule):
            setattr(made, rule, getattr(layer, rule))
    axis = layer.convolution_param.axis
    made.mutable("slice_param" if kind == "Slice" else "concat_param").axis = axis
    return made


def _parts(layer: Record) -> list[Record]:
    """Slice, the parallel convolutions, Concat."""
    group = layer.convolution_param.group
    names = [f"{layer.name}_g{i + 1}" for i in range(group)]
    inputs = [f"{layer.name}_in{i + 1}" for i in range(group)]
    cut = _beside(layer, f"{layer.name}_slice", "Slice", list(layer.bottom), inputs)
    join = _beside(layer, f"{layer.name}_concat", "Concat", names, list(layer.top))
    if layer.has("loss_weight"):
        join.loss_weight = list(layer.loss_weight)
    if layer.has("propagate_down"):
        cut.propagate_down = list(layer.propagate_down)
    parts = []
    for number, (name, bottom) in enumerate(zip(names, inputs, strict=True), 1):
        part = layer.copy()
        part.name, part.bottom, part.top = name, [bottom], [name]
        part.clear("loss_weight")
        param = part.convolution_param
        param.num_output //= group
        param.clear("group")
        for spec in part.param:
            if spec.name:
                spec.name = f"{spec.name}_g{number}"
        parts.append(part)
    return [cut, *parts, join]


def _refusal(layer: Record, net: Record) -> str:
    group = layer.convolution_param.group
    if len(layer.bottom) != 1 or len(layer.top) != 1:
        return "it has several bottoms"
    shared = {spec.name for spec in layer.param if spec.name}
    for other in net.layer:
        mine = shared & {spec.name for spec in other.param}
        alike = other.type == layer.type and other.convolution_param.group == group
        if mine and not alike:
            return f"{label(other)} shares its parameter '{min(mine)}' and has no {group} groups"
    return ""


def split_groups(net: NetLike, weights: WeightsLike, layers: tuple[str, ...] = ()) -> Surgery:
    """Replace grouped convolutions by parallel ones; layers of all phases are rewritten.

    Layer ``conv2`` becomes ``conv2_slice``, ``conv2_g1``, ``conv2_g2``, ..., ``conv2_concat``;
    its top keeps its name.

    Args:
        net: path, record or spec.
        weights: trained weights.
        layers: names; all with more than one group when empty.

    Raises:
        PlanError: a name that is no grouped convolution, or a new name is taken.
        WeightError: the weights lack one of the layers.
    """
    made = opened(net, weights)
    require_layers(made.net, layers, TYPES)
    taken = {layer.name for layer in made.net.layer} | {
        top for layer in made.net.layer for top in layer.top
    }
    old, result = list(made.net.layer), []
    for layer in old:
        grouped = layer.type in TYPES and layer.convolution_param.group > 1
        if not grouped and layer.name in layers:
            raise PlanError(f"{label(layer)}: has one group only, there is nothing to split.")
        if not grouped or (layers and layer.name not in layers):
            result.append(layer)
            continue
        reason = _refusal(layer, made.net)
        if reason:
            made.kept[layer.name] = reason
            result.append(layer)
            continue
        new = _parts(layer)
        for name in {part.name for part in new} | set(new[0].top):
            if name in taken:
                raise PlanError(
                    f"{label(layer)}: splitting would make '{name}', which the net already has; "
                    "rename that one."
                )
        result.extend(new)
        if layer.name in made.changed:
            continue
        if layer.name not in made.blobs:
            raise WeightError(f"{label(layer)}: the weights hold nothing for it.")
        weight, *rest = made.blobs.pop(layer.name)
        group = layer.convolution_param.group
        filters = np.split(weight, group)
        bias = [np.split(a.reshape(-1), group) for a in rest]
        for number, part in enumerate(new[1:-1]):
            made.blobs[part.name] = [filters[number], *(b[number] for b in bias)]
        made.changed.append(layer.name)
    made.net.layer = result
    return made
