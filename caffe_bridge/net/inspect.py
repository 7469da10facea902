"""What a net consists of and whether it can be run: found without building or filling it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from caffe_bridge.errors import BridgeError
from caffe_bridge.graph import LayerSpec, NetSpec, Node, Shape, wire
from caffe_bridge.layers.registry import LAYERS, layer_class
from caffe_bridge.net.build import with_automatic_tops
from caffe_bridge.net.stand_in import StandIn, find, fit
from caffe_bridge.schema import unknown_fields

#: The layer runs with Caffe's numbers.
EXACT = "exact"
#: It runs, but not with everything that the file says; the reason says what differs.
APPROXIMATED = "approximated"
#: It cannot be run.
UNSUPPORTED = "unsupported"

#: The reason of a layer that only suffers from an earlier layer's.
NO_SHAPES = "its bottoms' shapes are unknown"


@dataclass(frozen=True)
class LayerReport:
    """One layer: shapes of its tops, learnable numbers, MACs, and whether it can be run.

    ``macs`` is None when unknown; ``shapes`` is empty when they cannot be found. ``status`` is
    "exact", "approximated" or "unsupported", the last two with a ``reason``.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    shapes: tuple[Shape, ...]
    parameters: int
    macs: int | None
    status: str
    reason: str


@dataclass(frozen=True)
class NetReport:
    """All layers, the problems of the net as a whole, and fields the schema does not know."""

    name: str
    phase: str
    layers: tuple[LayerReport, ...]
    problems: tuple[str, ...]
    unknown: tuple[tuple[str, int], ...]

    @property
    def supported(self) -> bool:
        """Whether every layer can be run and all shapes are known."""
        return not self.problems and all(layer.status != UNSUPPORTED for layer in self.layers)

    @property
    def unsupported(self) -> tuple[LayerReport, ...]:
        """The layers that cannot be run."""
        return tuple(layer for layer in self.layers if layer.status == UNSUPPORTED)


def inspect(spec: NetSpec) -> NetReport:
    """Describe a net layer by layer; problems are reported, not raised.

    A data layer whose source is not there is stood in for, see
    :mod:`caffe_bridge.net.stand_in`; it counts as approximated.
    """
    unknown = tuple(unknown_fields(spec.record))
    if all(layer.type in LAYERS for layer in spec.layers):
        spec = with_automatic_tops(spec)
    stand_ins = find(spec)
    phase = spec.state.phase
    try:
        graph = wire(spec)
    except BridgeError as error:
        layers = tuple(
            _alone(layer, phase, stand_ins.get(i)) for i, layer in enumerate(spec.layers)
        )
        return NetReport(spec.name, phase, layers, (str(error),), unknown)
    fit(graph, phase, stand_ins)
    shapes: dict[int, Shape] = {}
    reports = tuple(_report(n, phase, shapes, stand_ins.get(n.index)) for n in graph.nodes)
    problems = () if reports else (f"{spec.source}: has no layers in the {phase} phase.",)
    return NetReport(spec.name, phase, reports, problems, unknown)


def _describe(
    spec: LayerSpec, status: str, reason: str, made: Sequence[Shape] = (), parameters: int = 0,
    macs: int | None = None,
) -> LayerReport:  # fmt: skip
    shapes = tuple(tuple(int(size) for size in shape) for shape in made)
    return LayerReport(spec.name, spec.type, spec.bottoms, spec.tops, shapes, parameters, macs,
                       status, reason)  # fmt: skip


def _ignored(spec: LayerSpec) -> tuple[str, str]:
    """Status and reason of a layer that can be run: fields that have no effect."""
    names = [f"'{path}'" + (f" (line {line})" if line else "")
             for path, line in unknown_fields(spec.record)]  # fmt: skip
    if not names:
        return EXACT, ""
    verb = "is unknown and has" if len(names) == 1 else "are unknown and have"
    return APPROXIMATED, f"{spec.label()}: {', '.join(names)} {verb} no effect."


def _stood_in(spec: LayerSpec, stand_in: StandIn) -> LayerReport:
    sizes = " and ".join("x".join(map(str, shape)) for shape in stand_in.shapes)
    reason = f"{stand_in.reason} Stood in for by {sizes}."
    status = APPROXIMATED if stand_in.supported else UNSUPPORTED
    return _describe(spec, status, reason, stand_in.shapes)


def _alone(spec: LayerSpec, phase: str, stand_in: StandIn | None) -> LayerReport:
    """A layer of a net that cannot be wired: its type and parameters only."""
    if stand_in is not None:
        return _stood_in(spec, stand_in)
    try:
        layer_class(spec)(spec, phase)
    except BridgeError as error:
        return _describe(spec, UNSUPPORTED, str(error))
    return _describe(spec, *_ignored(spec))


def _report(
    node: Node, phase: str, shapes: dict[int, Shape], stand_in: StandIn | None
) -> LayerReport:  # fmt: skip
    """Describe a node and enter the shapes of its tops."""
    spec = node.layer
    if stand_in is not None:
        shapes.update((v.index, s) for v, s in zip(node.outputs, stand_in.shapes, strict=False))
        return _stood_in(spec, stand_in)
    try:
        layer = layer_class(spec)(spec, phase)
        if any(value.index not in shapes for value in node.inputs):
            return _describe(spec, UNSUPPORTED, NO_SHAPES)
        bottoms = [shapes[value.index] for value in node.inputs]
        made = layer.infer(bottoms)
        parameters = sum(math.prod(blob.shape) for blob in layer.blob_specs(bottoms))
        macs = layer.macs(bottoms)
    except BridgeError as error:
        return _describe(spec, UNSUPPORTED, str(error))
    except Exception as error:  # an inspection never ends in a traceback
        reason = f"{spec.label()}: cannot be examined ({type(error).__name__}: {error})."
        return _describe(spec, UNSUPPORTED, reason)
    shapes.update((v.index, tuple(s)) for v, s in zip(node.outputs, made, strict=False))
    return _describe(spec, *_ignored(spec), made, parameters, macs)
