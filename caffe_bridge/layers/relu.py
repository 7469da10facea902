"""ReLU: the rectifier, leaky when a negative slope is given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("ReLU")
class ReLU(Layer):
    """Rectified linear unit: ``y = max(x, 0) + negative_slope * min(x, 0)``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        negative_slope (0): slope for x < 0.
    Gradient:
        at x = 0 it is ``negative_slope``.
    ONNX:
        Relu or LeakyRelu.
    Caffe source:
        relu_layer.cpp
    Differences:
        none.
    """

    param_field = "relu_param"

    def forward(self, x: Tensor) -> Tensor:
        """Rectify."""
        slope = self.p.negative_slope
        return functional.leaky_relu(x, slope) if slope else torch.relu(x)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Relu, or LeakyRelu with alpha = negative_slope."""
        slope = self.p.negative_slope
        if slope:
            e.op("LeakyRelu", bottoms, tops, alpha=float(slope))
        else:
            e.op("Relu", bottoms, tops)
