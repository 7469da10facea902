"""What surgery gives back, and the proof that it changed nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from caffe_bridge.compress.plan import Plan
from caffe_bridge.compress.rewrite import Blobs, as_weights_of, rewrite, write_blobs
from caffe_bridge.compress.target import NetLike, WeightsLike, as_record, as_weights
from caffe_bridge.errors import PlanError, VerifyError
from caffe_bridge.graph import NetSpec, Shape, load_net
from caffe_bridge.net import Net, with_inputs
from caffe_bridge.onnx_export.verify import difference, random_feed
from caffe_bridge.schema import Record, write_text

#: Largest relative difference of an output between the net and its other form.
EXACT = 1e-5


@dataclass
class Surgery:
    """A net in another form.

    Attributes:
        net: the new NetParameter.
        blobs: the values of all its layers that have any.
        changed: names of the layers that took another form.
        kept: layers that could have, and why they stay.
    """

    net: Record
    blobs: Blobs
    changed: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def opened(net: NetLike, weights: WeightsLike) -> Surgery:
    """A copy of a net and all its blobs, to be changed in place."""
    record, blobs = rewrite(as_record(net), as_weights(weights), Plan([]))
    return Surgery(record, blobs)


def require_layers(net: Record, names: tuple[str, ...], types: tuple[str, ...]) -> None:
    """Refuse names that are no layer of these types.

    Raises:
        PlanError: a name that the net lacks, or a layer of another type.
    """
    for name in names:
        found = {layer.type for layer in net.layer if layer.name == name}
        if not found:
            raise PlanError(f"{net.where() or 'the net'}: has no layer '{name}'.")
        if not found & set(types):
            raise PlanError(
                f"{net.where() or 'the net'}: '{name}' is a {found.pop()} layer; this works on "
                f"{' and '.join(types)} layers."
            )


def spec_of(net: NetLike, inputs: Mapping[str, Shape] | None = None) -> NetSpec:
    """The TEST net, its data layers replaced by inputs of the given shapes."""
    spec = load_net(as_record(net), "TEST")
    return with_inputs(spec, inputs) if inputs else spec


def largest_difference(
    net: NetLike,
    weights: WeightsLike,
    made: Surgery,
    inputs: Mapping[str, Shape] | None = None,
) -> float:
    """Largest relative difference of the TEST nets' outputs on seeded random inputs.

    An output of another shape but equal size (``fc_to_conv`` adds axes of length 1) is compared
    value by value.

    Args:
        net: the net before.
        weights: its weights.
        made: the net after.
        inputs: shapes of the inputs that replace data layers.

    Raises:
        VerifyError: an output differs by more than ``EXACT``, or is gone.
        BridgeError: one of the nets cannot be built.
    """
    before = Net(spec_of(net, inputs), weights=as_weights(weights))
    after = Net(spec_of(made.net, inputs), weights=as_weights_of(made.blobs))
    feed = random_feed(before)
    want, found = before(feed), after(feed)
    worst = 0.0
    for blob, value in want.items():
        if blob not in found:
            raise VerifyError(f"{before.spec.source}: output '{blob}' is lost; report this net.")
        mine = np.asarray(found[blob].detach())
        theirs = np.asarray(value.detach())
        if mine.size == theirs.size:
            mine = mine.reshape(theirs.shape)
        worst = max(worst, difference(mine, theirs)[1])
    if not worst <= EXACT:
        raise VerifyError(
            f"{before.spec.source}: the outputs of its new form differ by {worst:.2g} relative "
            f"(allowed {EXACT:g}); nothing is written."
        )
    return worst


def write_surgery(
    made: Surgery, net: str | os.PathLike[str], weights: str | os.PathLike[str]
) -> tuple[Path, Path]:
    """Write prototxt and weights (HDF5 where the name ends in .h5); returns their paths."""
    return write_text(made.net, net), write_blobs(made.net, made.blobs, weights)
