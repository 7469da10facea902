"""Counted cost of a net: parameters, multiply-accumulates and activation bytes by layer.

Counts are no times: onnxruntime works in blocks of channels and some layers wait for memory. Use
them to understand a net, and :mod:`caffe_bridge.bench.compare` to say which is faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from caffe_bridge.graph import NetSpec, Shape
from caffe_bridge.net import Net, build

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class LayerCost:
    """Counts of one layer at the net's shapes.

    ``params`` leaves out blobs shared from another layer; ``macs`` is ``None`` where the layer
    cannot tell; ``activation_bytes`` is what its tops need in float32, 0 when it works in place.
    """

    layer: str
    type: str
    tops: tuple[Shape, ...]
    params: int
    macs: int | None
    activation_bytes: int


@dataclass(frozen=True)
class NetCost:
    """Counts of a net; the sums leave out the layers in ``not_counted``."""

    layers: tuple[LayerCost, ...]
    params: int
    macs: int
    activation_bytes: int
    not_counted: tuple[str, ...]

    @property
    def param_bytes(self) -> int:
        """Bytes of the parameters in float32."""
        return self.params * _FLOAT_BYTES


def net_cost(net: Net | NetSpec) -> NetCost:
    """Count a net at the shapes for which it was built (the batch size included).

    Raises:
        BridgeError: a spec cannot be built.
    """
    # Blobs only lend their shapes here, so a spec is built without running its fillers.
    built = net.built if isinstance(net, Net) else build(net, fill=False)
    params = [0] * len(built.layers)
    for number, slot in enumerate(built.slots):
        if slot.owner == number:
            params[slot.layer] += built.layers[slot.layer].blobs[slot.index].numel()
    rows = []
    for node, layer, count in zip(built.graph.nodes, built.layers, params, strict=True):
        bottoms = [built.shapes[value.index] for value in node.inputs]
        read = {value.blob for value in node.inputs}
        fresh = [value for value in node.outputs if value.blob not in read]
        rows.append(
            LayerCost(
                layer=layer.name,
                type=layer.spec.type,
                tops=tuple(built.shapes[value.index] for value in node.outputs),
                params=count,
                macs=layer.macs(bottoms),
                activation_bytes=_FLOAT_BYTES
                * sum(math.prod(built.shapes[value.index]) for value in fresh),
            )
        )
    return NetCost(
        layers=tuple(rows),
        params=sum(row.params for row in rows),
        macs=sum(row.macs or 0 for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        not_counted=tuple(row.layer for row in rows if row.macs is None),
    )
