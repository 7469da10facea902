"""Softmax: exponentials that sum to one along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("Softmax")
class Softmax(Layer):
    """Softmax: ``y = exp(x - max x) / sum exp(x - max x)`` along ``axis``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        axis (1; negative counts from the end).
    ONNX:
        ``operator`` (portable): Softmax. ``exp`` (ort-cpu, where numbers follow the axis):
        ReduceMax, Sub, Exp, ReduceSum, Div, because onnxruntime transposes such an axis to the
        end and back.
    Caffe source:
        softmax_layer.cpp
    Differences:
        none.
    """

    param_field = "softmax_param"

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shape of the bottom."""
        self.axis(self.p.axis, shapes[0])
        return [tuple(shapes[0])]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the exponentials."""
        return torch.softmax(x, self.axis(self.p.axis, tuple(x.shape)))

    def forms(self, shapes: Sequence[Shape]) -> tuple[str, ...]:
        """See the class."""
        axis = self.axis(self.p.axis, shapes[0])
        return ("operator", "exp") if math.prod(shapes[0][axis + 1 :]) > 1 else ("operator",)

    def form_for(self, target: str, shapes: Sequence[Shape]) -> str:
        """The form of a target."""
        return self.forms(shapes)[-1 if target == "ort-cpu" else 0]

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Softmax, or its formula."""
        axis = self.axis(self.p.axis, e.shape(bottoms[0]))
        if e.form != "exp":
            e.op("Softmax", bottoms, tops, axis=axis)
            return
        (shifted,) = e.op("Sub", [bottoms[0], e.reduce("ReduceMax", bottoms[0], [axis])])
        (powers,) = e.op("Exp", [shifted])
        e.op("Div", [powers, e.reduce("ReduceSum", powers, [axis])], tops)
