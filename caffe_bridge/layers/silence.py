"""Silence: read blobs so that they are no outputs of the net."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, at_least, exactly
from caffe_bridge.layers.registry import register


@register("Silence")
class Silence(Layer):
    """Consume the bottoms and make nothing.

    Bottoms:
        x_1 .. x_m: any shapes.
    Tops:
        none.
    Gradient:
        zero.
    ONNX:
        no node.
    Caffe source:
        silence_layer.cpp
    Differences:
        none.
    """

    bottoms = at_least(1)
    tops = exactly(0)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Nothing."""
        return []

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Nothing."""
        return ()

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Nothing."""
