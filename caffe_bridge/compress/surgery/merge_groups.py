"""Parallel convolutions between a Slice and a Concat as one grouped convolution.

The inverse of :mod:`split_groups`, for nets that it made and for ones split by hand: the parts read
all tops of one Slice, in order, and one Concat joins them in the same order, along the channels. A
ReLU in place on every part (with one slope) is allowed and moves behind the merged layer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from caffe_bridge.compress.surgery.result import Surgery, opened, require_layers
from caffe_bridge.compress.target import NetLike, WeightsLike
from caffe_bridge.schema import Record

TYPES = ("Convolution", "Deconvolution")


@dataclass(frozen=True)
class _Found:
    """The layers of one split convolution; the ReLUs are those in place on its parts."""

    cut: Record
    parts: list[Record]
    relus: list[Record]
    join: Record

    def layers(self) -> list[Record]:
        return [self.cut, *self.parts, *self.relus, self.join]


def _readers(net: Record, blob: str) -> list[Record]:
    return [layer for layer in net.layer if blob in layer.bottom]


def _find(net: Record, cut: Record) -> _Found | str:
    """The parts that stand behind a Slice, or why there are none."""
    parts, relus, joins = [], [], []
    for top in cut.top:
        readers = _readers(net, top)
        if len(readers) != 1 or readers[0].type not in TYPES or len(readers[0].bottom) != 1:
            return f"its top '{top}' does not feed exactly one convolution"
        part = readers[0]
        parts.append(part)
        after = _readers(net, part.top[0])
        relus.append([x for x in after if x.type == "ReLU" and x.top == x.bottom])
        left = [x for x in after if x not in relus[-1]]
        if len(left) != 1 or left[0].type != "Concat":
            return f"'{part.top[0]}' does not go into exactly one Concat"
        joins.append(left[0])
    if any(join is not joins[0] for join in joins):
        return "its parts are not joined by one Concat"
    if list(joins[0].bottom) != [part.top[0] for part in parts]:
        return f"{joins[0].name} joins the parts in another order"
    counts = {len(found) for found in relus}
    slopes = {x.relu_param.negative_slope for found in relus for x in found}
    if counts not in ({0}, {1}) or len(slopes) > 1:
        return "its parts are not followed by equal ReLU layers"
    return _Found(cut, parts, [x for found in relus for x in found], joins[0])


def _base_name(names: list[str]) -> list[str]:
    """Names without the number that tells the groups apart."""
    return [re.sub(r"_g\d+$", "", name) for name in names]


def _refusal(found: _Found, made: Surgery) -> str:
    first, *others = found.parts
    param = first.convolution_param
    for part in others:
        if part.type != first.type or part.convolution_param != param:
            return f"{part.name} and {first.name} have different parameters"
        if [s.lr_mult for s in part.param] != [s.lr_mult for s in first.param]:
            return f"{part.name} and {first.name} have different lr_mult"
    for specs in zip(*(part.param for part in found.parts), strict=False):
        if specs[0].name and len(set(_base_name([s.name for s in specs]))) != 1:
            return "its parts share parameters with other layers"
    axes = (found.cut.slice_param.axis, found.join.concat_param.axis, param.axis)
    if len({axis % 4 for axis in axes}) != 1:
        return "they are not cut and joined along the channels"
    missing = [part.name for part in found.parts if part.name not in made.blobs]
    if missing:
        return f"the weights hold nothing for {missing[0]}"
    shapes = {made.blobs[part.name][0].shape for part in found.parts}
    if len(shapes) != 1:
        return "its parts have weights of different shapes"
    shape = shapes.pop()
    run = shape[0] if first.type == "Deconvolution" else shape[1] * param.group
    points = list(found.cut.slice_param.slice_point)
    if points and points != [run * i for i in range(1, len(found.parts))]:
        return "its Slice does not cut equal runs"
    return ""


def _merged(found: _Found, name: str) -> list[Record]:
    layer = found.parts[0].copy()
    layer.name, layer.top = name, list(found.join.top)
    layer.bottom = list(found.cut.bottom)
    for source, rule in ((found.join, "loss_weight"), (found.cut, "propagate_down")):
        layer.clear(rule)
        if source.has(rule):
            setattr(layer, rule, list(getattr(source, rule)))
    param = layer.convolution_param
    param.group = param.group * len(found.parts)
    param.num_output *= len(found.parts)
    for spec in layer.param:
        if spec.name:
            spec.name = _base_name([spec.name])[0]
    if not found.relus:
        return [layer]
    relu = found.relus[0].copy()
    relu.name = f"{name}_relu"
    relu.bottom, relu.top = list(layer.top), list(layer.top)
    return [layer, relu]


def merge_groups(net: NetLike, weights: WeightsLike, layers: tuple[str, ...] = ()) -> Surgery:
    """Merge parallel convolutions into grouped ones.

    The merged layer is called as the Concat's top, or as the Concat where that name is taken.

    Args:
        net: path, record or spec.
        weights: trained weights.
        layers: names of Slice layers; all of them when empty.

    Raises:
        PlanError: a name that is no Slice layer.
        WeightError: the weights do not belong to the net.
    """
    made = opened(net, weights)
    require_layers(made.net, layers, ("Slice",))
    for cut in [layer for layer in made.net.layer if layer.type == "Slice"]:
        if layers and cut.name not in layers:
            continue
        found = _find(made.net, cut)
        reason = found if isinstance(found, str) else _refusal(found, made)
        if isinstance(found, str) or reason:
            made.kept[cut.name] = reason
            continue
        gone = found.layers()
        taken = {x.name for x in made.net.layer if not any(x is y for y in gone)}
        name = found.join.top[0] if found.join.top[0] not in taken else found.join.name
        new = _merged(found, name)
        if new[-1].name in taken:
            made.kept[cut.name] = f"the net already has a layer '{new[-1].name}'"
            continue
        arrays = [made.blobs.pop(part.name) for part in found.parts]
        made.blobs[name] = [
            np.concatenate([a if not i else a.reshape(-1) for a in group])
            for i, group in enumerate(zip(*arrays, strict=True))
        ]
        kept = []
        for layer in made.net.layer:
            if layer is found.join:
                kept.extend(new)
            elif not any(layer is y for y in gone):
                kept.append(layer)
        made.net.layer = kept
        made.changed.append(name)
    return made
