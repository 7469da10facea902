"""Axpy: scale channels by another blob and add a third."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register


@register("Axpy")
class Axpy(Layer):
    """Channels of x times their factors plus y: ``z = a_nc * x + y`` (squeeze and excitation).

    Bottoms:
        a: (N, C) or (N, C, 1, ..), a factor per item and channel.
        x: (N, C, ...).
        y: x's shape.
    Tops:
        z: x's shape.
    ONNX:
        Mul and Add, after a Reshape when a has fewer axes than x.
    Caffe source:
        axpy_layer.cpp of the SENet fork
    Differences:
        none.
    """

    param_field = "axpy_param"
    bottoms = exactly(3)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shape of x and y."""
        factor, x, y = (tuple(s) for s in shapes)
        if x != y or len(x) < 2:
            self.fail(f"x has shape {x} and y {y}; they must be equal, (N, C, ...).")
        if factor[:2] != x[:2] or any(size != 1 for size in factor[2:]) or len(factor) > len(x):
            self.fail(f"the factors have shape {factor}; x of shape {x} wants {x[:2]} and ones.")
        return [x]

    def forward(self, a: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Multiply and add."""
        return a.reshape(*a.shape[:2], *(1,) * (x.ndim - 2)) * x + y

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Mul and Add."""
        factor, shape = bottoms[0], e.shape(bottoms[1])
        if len(e.shape(factor)) != len(shape):
            factor = e.reshape(factor, (0, shape[1], *(1,) * (len(shape) - 2)))
        (scaled,) = e.op("Mul", [factor, bottoms[1]])
        e.op("Add", [scaled, bottoms[2]], tops)
