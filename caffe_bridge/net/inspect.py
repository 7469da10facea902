"""What a net consists of and whether it can be run: found without building or filling it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from caffe_bridge.errors import BridgeError
from caffe_bridge.graph import NetSpec, Shape, wire
from caffe_bridge.layers.registry import LAYERS, layer_class
from caffe_bridge.net.build import with_automatic_tops
from caffe_bridge.schema import unknown_fields

#: The problem of a layer that only suffers from an earlier layer's.
NO_SHAPES = "its bottoms' shapes are unknown"


@dataclass(frozen=True)
class LayerReport:
    """One layer: shapes of its tops, learnable numbers, MACs, and what is wrong if anything.

    ``macs`` is None when unknown; ``shapes`` is empty when they cannot be found.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    shapes: tuple[Shape, ...]
    parameters: int
    macs: int | None
    problem: str


@dataclass(frozen=True)
class NetReport:
    """All layers, the problems of the net as a whole, and fields the schema does not know."""

    name: str
    layers: tuple[LayerReport, ...]
    problems: tuple[str, ...]
    unknown: tuple[tuple[str, int], ...]

    @property
    def supported(self) -> bool:
        """Whether every layer can be run."""
        return not self.problems and not any(layer.problem for layer in self.layers)


def inspect(spec: NetSpec) -> NetReport:
    """Describe a net layer by layer; problems are reported, not raised."""
    unknown = tuple(unknown_fields(spec.record))
    problems: list[str] = []
    if all(layer.type in LAYERS for layer in spec.layers):
        spec = with_automatic_tops(spec)
    try:
        graph = wire(spec)
    except BridgeError as error:
        return NetReport(spec.name, _without_shapes(spec), (str(error),), unknown)
    shapes: dict[int, Shape] = {}
    reports = []
    for node in graph.nodes:
        spec_ = node.layer
        made: list[Shape] = []
        parameters, macs, problem = 0, 0, ""
        try:
            layer = layer_class(spec_)(spec_, spec.state.phase)
            if all(value.index in shapes for value in node.inputs):
                bottoms = [shapes[value.index] for value in node.inputs]
                made = layer.infer(bottoms)
                if len(made) != len(node.outputs):
                    layer.fail(f"makes {len(made)} tops but names {len(node.outputs)}.")
                shapes.update((v.index, tuple(s)) for v, s in zip(node.outputs, made, strict=False))
                parameters = sum(math.prod(b.shape) for b in layer.blob_specs(bottoms))
                counted = layer.macs(bottoms)
                macs = counted if counted is not None else -1
            else:
                problem = NO_SHAPES
        except BridgeError as error:
            problem = str(error)
        reports.append(
            LayerReport(spec_.name, spec_.type, spec_.bottoms, spec_.tops,
                        tuple(tuple(s) for s in made), parameters, None if macs < 0 else macs,
                        problem)
        )  # fmt: skip
    return NetReport(spec.name, tuple(reports), tuple(problems), unknown)


def _without_shapes(spec: NetSpec) -> tuple[LayerReport, ...]:
    return tuple(
        LayerReport(s.name, s.type, s.bottoms, s.tops, (), 0, None, "") for s in spec.layers
    )
