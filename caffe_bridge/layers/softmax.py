"""Softmax: exponentials that sum to one along an axis."""

from __future__ import annotations

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
        Softmax.
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

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Softmax."""
        e.op("Softmax", bottoms, tops, axis=self.axis(self.p.axis, e.shape(bottoms[0])))
