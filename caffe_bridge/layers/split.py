"""Split: give one blob to several layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.layers.base import Emitter, Layer, at_least
from caffe_bridge.layers.registry import register


@register("Split")
class Split(Layer):
    """Copy the bottom to every top: ``y_i = x``.

    Nets need not name it: a blob may have several readers. Caffe writes it into the nets it saves.

    Bottoms:
        x: any shape.
    Tops:
        y_1 .. y_m: the same shape; they share x's memory.
    Gradient:
        the sum of the tops' gradients.
    ONNX:
        no node.
    Caffe source:
        split_layer.cpp
    Differences:
        none.
    """

    tops = at_least(1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """As many views as tops."""
        return tuple(x.view_as(x) for _ in self.spec.tops)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Every top is another name of the bottom."""
        for top in tops:
            e.alias(bottoms[0], top)
