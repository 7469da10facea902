"""A net as plain data: what every other package works on. No protobuf, no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from caffe_bridge.schema import Record

Shape = tuple[int, ...]


@dataclass(frozen=True)
class NetState:
    """Which layers of a net are wanted: phase ("TRAIN" or "TEST"), level and stages."""

    phase: str = "TEST"
    level: int = 0
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParamSpec:
    """Training multipliers and sharing of one learnable blob; ``None`` means not given."""

    name: str = ""
    lr_mult: float | None = None
    decay_mult: float | None = None
    force_mult: float | None = None
    permissive: bool = False


@dataclass(frozen=True)
class LayerSpec:
    """One layer of a filtered net.

    ``record`` is its LayerParameter with every parameter message; ``params`` are its ParamSpecs.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: tuple[ParamSpec, ...]
    loss_weights: tuple[float, ...]
    propagate_down: tuple[bool, ...]
    record: Record

    def label(self) -> str:
        """How messages name the layer: ``conv2 (Convolution) at train.prototxt:118``."""
        where = self.record.where()
        return f"{self.name or '(unnamed)'} ({self.type}){f' at {where}' if where else ''}"


@dataclass(frozen=True)
class NetSpec:
    """A net for one state: the layers that remain, in order."""

    name: str
    layers: tuple[LayerSpec, ...]
    state: NetState
    force_backward: bool
    source: str
    record: Record

    def layer(self, name: str) -> LayerSpec:
        """The first layer with that name.

        Raises:
            KeyError: no such layer.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def with_layers(self, layers: tuple[LayerSpec, ...]) -> NetSpec:
        """The same net with other layers."""
        return replace(self, layers=layers)
