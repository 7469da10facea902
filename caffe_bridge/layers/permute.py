"""Permute: exchange axes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("Permute")
class Permute(Layer):
    """Put the axes into another order: top axis ``i`` is bottom axis ``order[i]``.

    Bottoms:
        x: any shape.
    Tops:
        y: the permuted shape.
    Parameters:
        order: axes, each at most once; those left out follow in rising order.
    ONNX:
        Transpose; no node for the order that changes nothing.
    Caffe source:
        permute_layer.cpp of the SSD fork
    Differences:
        none.
    """

    param_field = "permute_param"

    def configure(self) -> None:
        """Check that no axis is named twice."""
        order = [int(axis) for axis in self.p.order]
        if len(set(order)) != len(order):
            self.fail(f"order {order} names an axis twice.")

    def _order(self, axes: int) -> list[int]:
        order = [int(axis) for axis in self.p.order]
        if any(axis >= axes for axis in order):
            self.fail(f"order {order} names an axis that a bottom of {axes} axes does not have.")
        return order + [axis for axis in range(axes) if axis not in order]

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The sizes in the new order."""
        return [tuple(shapes[0][axis] for axis in self._order(len(shapes[0])))]

    def forward(self, x: Tensor) -> Tensor:
        """Permute."""
        return x.permute(self._order(x.ndim))

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Transpose."""
        order = self._order(len(e.shape(bottoms[0])))
        if order == sorted(order):
            e.alias(bottoms[0], tops[0])
        else:
            e.op("Transpose", bottoms, tops, perm=order)
