"""CReLU: rectify the positive and the negative part side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("CReLU")
class CReLU(Layer):
    """``y = relu(concat(x, -x))``, relu(v) = ``max(v, 0) + negative_slope * min(v, 0)``.

    Bottoms:
        x: any shape with the axis.
    Tops:
        y: twice as long on the axis.
    Parameters:
        negative_slope (0), concat_axis (1).
    Gradient:
        at x = 0 each half has ``negative_slope``.
    ONNX:
        Neg, Concat, Relu or LeakyRelu.
    Caffe source:
        crelu_layer.cpp of a fork
    Differences:
        none.
    """

    param_field = "crelu_param"

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Twice as long on the axis."""
        shape = list(shapes[0])
        shape[self.axis(self.p.concat_axis, shapes[0], "concat_axis")] *= 2
        return [tuple(shape)]

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate and rectify."""
        both = torch.cat((x, -x), self.p.concat_axis)
        slope = self.p.negative_slope
        return functional.leaky_relu(both, slope) if slope else torch.relu(both)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Neg, Concat and the rectifier."""
        axis = self.axis(self.p.concat_axis, e.shape(bottoms[0]), "concat_axis")
        (negative,) = e.op("Neg", bottoms)
        both = e.op("Concat", [bottoms[0], negative], axis=axis)
        slope = float(self.p.negative_slope)
        e.op("LeakyRelu" if slope else "Relu", both, tops, alpha=slope or None)
