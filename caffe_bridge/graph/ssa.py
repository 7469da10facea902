"""Wiring: every edge of the net gets one value, in place or not.

Caffe names edges by blob; a layer that works in place writes the blob it reads, so one name stands
for several values. Here each value is unique and the blob's name belongs to its last one, the one
that a caller sees in ``net.blobs`` after a forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from caffe_bridge.errors import BlobError, GraphError, printable
from caffe_bridge.graph.spec import LayerSpec, NetSpec


@dataclass
class Value:
    """One edge: the blob's name, the layer that made it and the layers that read it."""

    index: int
    blob: str
    producer: int
    top_index: int
    consumers: list[int] = field(default_factory=list)
    name: str = ""


@dataclass(frozen=True)
class Node:
    """A layer with the values it reads and makes."""

    index: int
    layer: LayerSpec
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Graph:
    """All nodes and values in order, and the blobs that nobody reads (sorted, as Caffe does)."""

    nodes: tuple[Node, ...]
    values: tuple[Value, ...]
    outputs: tuple[Value, ...]

    def blobs(self) -> dict[str, Value]:
        """The last value of every blob, in order of first appearance."""
        return {value.blob: value for value in self.values}


def _unknown_bottom(layer: LayerSpec, index: int, known: dict[str, Value]) -> BlobError:
    makers = ", ".join(sorted(known)) or "none"
    return BlobError(
        f"{layer.label()}: bottom {index} '{layer.bottoms[index]}' is made by no earlier layer; "
        f"blobs so far: {makers[:300]}. Correct the name, or the phase for which the net is built."
    )


def _one_each(layer: LayerSpec, name: str, given: int, what: str, count: int) -> None:
    if given not in (0, count):
        raise GraphError(
            f"{layer.label()}: gives {name} {given} times for {count} {what}s; give it once for "
            f"each {what}, or not at all."
        )


def wire(spec: NetSpec) -> Graph:
    """Resolve blob names to values.

    Raises:
        BlobError: a bottom that no earlier layer makes, or a blob made twice not in place.
        GraphError: propagate_down not once for each bottom, loss_weight not once for each top.
    """
    current: dict[str, Value] = {}
    available: dict[str, Value] = {}
    values: list[Value] = []
    nodes: list[Node] = []
    for index, layer in enumerate(spec.layers):
        _one_each(layer, "propagate_down", len(layer.propagate_down), "bottom", len(layer.bottoms))
        _one_each(layer, "loss_weight", len(layer.loss_weights), "top", len(layer.tops))
        inputs = []
        for position, blob in enumerate(layer.bottoms):
            if blob not in current:
                raise _unknown_bottom(layer, position, current)
            current[blob].consumers.append(index)
            available.pop(blob, None)
            inputs.append(current[blob])
        outputs = []
        for position, blob in enumerate(layer.tops):
            in_place = position < len(layer.bottoms) and layer.bottoms[position] == blob
            if blob in layer.tops[:position]:
                raise BlobError(f"{layer.label()}: names the top '{blob}' twice; rename one.")
            if blob in current and not in_place:
                maker = spec.layers[current[blob].producer]
                raise BlobError(
                    f"{layer.label()}: top '{blob}' is already made by {maker.label()}; "
                    "rename it, or check the include rules of the two layers."
                )
            value = Value(len(values), blob, index, position)
            values.append(value)
            outputs.append(value)
        for value in outputs:
            current[value.blob] = value
            available[value.blob] = value
        nodes.append(Node(index, layer, tuple(inputs), tuple(outputs)))
    _name(values, current, spec)
    return Graph(tuple(nodes), tuple(values), tuple(available[b] for b in sorted(available)))


def _name(values: list[Value], last: dict[str, Value], spec: NetSpec) -> None:
    taken = {printable(blob) for blob in last}
    for value in values:
        name = printable(value.blob)
        if last[value.blob] is not value:
            name = printable(f"{value.blob}@{spec.layers[value.producer].name}")
            while name in taken:
                name += "'"
        taken.add(name)
        value.name = name
