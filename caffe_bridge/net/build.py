"""From a net spec to layers, shapes and learnable blobs: what both executors share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import (
    Graph,
    LayerSpec,
    NetSpec,
    Shape,
    Slot,
    layer_spec,
    share,
    wire,
)
from caffe_bridge.layers.base import Layer
from caffe_bridge.layers.registry import layer_class
from caffe_bridge.schema import Record


@dataclass
class LearnableBlob:
    """One learnable blob that is nobody's copy: its tensor and training multipliers.

    ``lr_mult`` and ``decay_mult`` default to 1, ``force_mult`` to 0, as in Caffe.
    """

    layer: str
    index: int
    name: str
    value: nn.Parameter
    role: str
    group: int
    lr_mult: float
    decay_mult: float
    force_mult: float


def whole_blob(blobs: nn.ParameterList, index: int) -> nn.Parameter:
    """The parameter behind a layer's blob, in its owner's shape."""
    found: nn.Parameter = nn.ParameterList.__getitem__(blobs, index)
    return found


class ReshapedBlobs(nn.ParameterList):
    """Blobs of a layer of which some belong to another layer, with another shape.

    Such a blob is read as a view of its owner's, so that values and gradients are the owner's.
    """

    def __init__(
        self, values: Iterable[Any] = (), shapes: Mapping[int, Shape] | None = None
    ) -> None:
        self.shapes = dict(shapes or {})
        super().__init__(values)

    @classmethod
    def of(cls, blobs: nn.ParameterList, index: int, shape: Shape) -> ReshapedBlobs:
        """A layer's blobs with one more that has its own shape."""
        known = blobs.shapes if isinstance(blobs, ReshapedBlobs) else {}
        values = [whole_blob(blobs, i) for i in range(len(blobs))]
        return cls(values, {**known, index: shape})

    def __getitem__(self, index: Any) -> Any:
        """The blob, in this layer's shape."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        value, shape = super().__getitem__(index), self.shapes.get(int(index) % max(1, len(self)))
        return value if shape is None else value.reshape(shape)


def use_blob(layer: Layer, index: int, shared: nn.Parameter) -> None:
    """Let a blob of a layer be another one of as many values; the layer keeps its shape."""
    shape = tuple(layer.blobs[index].shape)
    layer.blobs[index] = shared
    if tuple(shared.shape) != shape:
        layer.blobs = ReshapedBlobs.of(layer.blobs, index, shape)


@dataclass
class Built:
    """Layers in order with the wiring, shapes of all values, slots and learnable blobs."""

    spec: NetSpec
    graph: Graph
    layers: list[Layer]
    shapes: list[Shape]
    slots: list[Slot]
    learnable: list[LearnableBlob]

    def loss_weights(self) -> dict[int, float]:
        """Loss weight by value index, for every top that counts towards the loss."""
        found = {}
        for node, layer in zip(self.graph.nodes, self.layers, strict=True):
            given = node.layer.loss_weights
            for position, value in enumerate(node.outputs):
                default = 1.0 if layer.is_loss and position == 0 else 0.0
                weight = given[position] if position < len(given) else default
                if weight:
                    found[value.index] = weight
        return found


def with_automatic_tops(spec: NetSpec) -> NetSpec:
    """Add anonymous tops to layers that need more than they name (losses without a top)."""
    layers = []
    for layer in spec.layers:
        cls = layer_class(layer)
        missing = cls.tops.least - len(layer.tops) if cls.auto_tops else 0
        if missing > 0:
            fresh = tuple(f"(automatic)_{layer.name}_{i}" for i in range(missing))
            layer = replace(layer, tops=layer.tops + fresh)
        layers.append(layer)
    return spec.with_layers(tuple(layers))


def with_inputs(spec: NetSpec, shapes: Mapping[str, Shape]) -> NetSpec:
    """Replace the makers of the named blobs by Input layers of the given shapes.

    A blob that is read but made by no layer gets an Input layer too.

    Raises:
        ShapeError: a named blob is neither made by an input or data layer nor missing, or another
            blob of its Input layer has no shape.
    """
    left = dict(shapes)
    made = {top for layer in spec.layers for top in layer.tops}
    read = {bottom for layer in spec.layers for bottom in layer.bottoms}
    missing = [name for name in shapes if name in read and name not in made]
    layers = [_input_layer(name, left.pop(name), spec.record) for name in missing]
    for layer in spec.layers:
        if layer.bottoms or not any(top in left for top in layer.tops):
            layers.append(layer)
            continue
        for top in layer.tops:
            shape = left.pop(top, None)
            if shape is None and layer.type != "Input":
                continue
            if shape is None:
                given = layer.record.input_param.shape
                index = layer.tops.index(top) if len(given) > 1 else 0
                if index >= len(given):
                    raise ShapeError(
                        f"{layer.label()}: gives no shape for '{top}'; name it with its shape too."
                    )
                shape = tuple(given[index].dim)
            layers.append(_input_layer(top, shape, layer.record))
    if left:
        entries = [top for layer in spec.layers if not layer.bottoms for top in layer.tops]
        raise _no_input(spec.source, left, entries)
    return spec.with_layers(tuple(layers))


def _no_input(source: str, names: Iterable[str], entries: Iterable[str]) -> ShapeError:
    return ShapeError(
        f"{source}: no input or data layer makes {', '.join(map(repr, names))}; "
        f"inputs are {', '.join(entries) or 'none'}."
    )


def _input_layer(name: str, shape: Shape, origin: Record) -> LayerSpec:
    record = Record("LayerParameter", name=name, type="Input", top=[name])
    record.mutable("input_param").add("shape").dim = [int(size) for size in shape]
    record.origin, record.line = origin.origin, origin.line
    return layer_spec(record)


def infer_shapes(
    graph: Graph,
    layers: list[Layer],
    inputs: Mapping[str, Shape],
    found: Mapping[int, int] | None = None,
) -> list[Shape]:
    """Shapes of all values, given other shapes for some input blobs.

    Args:
        graph: the net's wiring.
        layers: its layers.
        inputs: shapes of input blobs, by name.
        found: sizes along a layer's ``open_axis``, by node, in place of the declared ones.

    Raises:
        ShapeError: a layer's rule is broken.
    """
    shapes: list[Shape] = [()] * len(graph.values)
    for node, layer in zip(graph.nodes, layers, strict=True):
        made = layer.infer([shapes[v.index] for v in node.inputs])
        opened, size = layer.open_axis, (found or {}).get(node.index)
        if opened is not None and size is not None:
            made = [(*shape[:opened], size, *shape[opened + 1 :]) for shape in made]
        for value, shape in zip(node.outputs, made, strict=True):
            fed = inputs.get(value.blob) if layer.is_input else None
            shapes[value.index] = tuple(int(d) for d in (shape if fed is None else fed))
    return shapes


def build(
    spec: NetSpec,
    generator: torch.Generator | None = None,
    inputs: Mapping[str, Shape] | None = None,
    fill: bool = True,
) -> Built:
    """Make the layers of a net with their learnable blobs.

    Args:
        spec: the filtered net.
        generator: source of the fillers' randomness; torch's global one when None.
        inputs: shapes that replace those of Input layers.
        fill: whether the fillers run; without, blobs are zero until weights are loaded.

    Raises:
        BridgeError: unknown layer types, broken wiring, shapes, names of inputs or sharing.
    """
    spec = with_automatic_tops(spec)
    graph = wire(spec)
    layers: list[Layer] = []
    shapes: list[Shape] = [()] * len(graph.values)
    wanted, entries = dict(inputs or {}), []
    for node in graph.nodes:
        layer = layer_class(node.layer)(node.layer, spec.state.phase)
        bottoms = [shapes[v.index] for v in node.inputs]
        names = [value.blob for value in node.outputs]
        entries += names if layer.is_input else []
        if layer.is_input and not layer.has_source and all(name in wanted for name in names):
            made = [wanted[name] for name in names]  # it need not give shapes of its own
        else:
            made = layer.infer(bottoms)
        if len(made) != len(node.outputs):
            layer.fail(f"makes {len(made)} tops but names {len(node.outputs)}.")
        for value, shape in zip(node.outputs, made, strict=True):
            fed = wanted.get(value.blob) if layer.is_input else None
            shapes[value.index] = tuple(int(d) for d in (shape if fed is None else fed))
        layer.setup(bottoms, generator, fill)
        layers.append(layer)
    strange = [name for name in wanted if name not in entries]
    if strange:
        raise _no_input(spec.source, strange, entries)
    slots = share(spec.layers, [[tuple(b.shape) for b in layer.blobs] for layer in layers])
    for slot in slots:
        owner = slots[slot.owner]
        if owner is not slot:
            use_blob(layers[slot.layer], slot.index, layers[owner.layer].blobs[owner.index])
    return Built(spec, graph, layers, shapes, slots, _learnable(layers, slots, graph, shapes))


def _learnable(
    layers: list[Layer], slots: list[Slot], graph: Graph, shapes: list[Shape]
) -> list[LearnableBlob]:
    found = []
    for number, slot in enumerate(slots):
        if slot.owner != number:
            continue
        layer = layers[slot.layer]
        bottoms = [shapes[v.index] for v in graph.nodes[slot.layer].inputs]
        role = layer.blob_specs(bottoms)[slot.index].role
        lr_mult = 1.0 if slot.lr_mult is None else slot.lr_mult
        if role == "statistic":
            lr_mult = 0.0
        value = layer.blobs[slot.index]
        value.requires_grad_(lr_mult != 0.0)
        found.append(
            LearnableBlob(
                layer=layer.name,
                index=slot.index,
                name=slot.name,
                value=value,
                role=role,
                group=int(getattr(layer, "group", 1)),
                lr_mult=lr_mult,
                decay_mult=1.0 if slot.decay_mult is None else slot.decay_mult,
                force_mult=0.0 if slot.force_mult is None else slot.force_mult,
            )
        )
    return found
