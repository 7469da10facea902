"""Clip, Threshold, ReLU6, HSigmoid and HSwish: activations made of straight lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register

#: ONNX's number of the element type float32.
_FLOAT = 1


@register("Clip")
class Clip(Layer):
    """Limit to an interval: ``y = max(min, min(x, max))``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        min, max: both required.
    Gradient:
        1 from min to max, both included; 0 outside.
    ONNX:
        Clip; refused when min is above max, where Caffe gives min and ONNX max.
    Caffe source:
        clip_layer.cpp
    Differences:
        none.
    """

    param_field = "clip_param"

    def configure(self) -> None:
        """Check that both limits are given."""
        for name in ("min", "max"):
            if not self.p.has(name):
                self.fail(f"clip_param has no {name}; give min and max.")

    def forward(self, x: Tensor) -> Tensor:
        """Limit."""
        return x.clamp(max=self.p.max).clamp(min=self.p.min)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Clip."""
        if self.p.min > self.p.max:
            self.refuse(f"min {self.p.min:g} is above max {self.p.max:g}; ONNX's Clip differs.")
        low = e.constant(np.array(self.p.min, np.float32), "min")
        high = e.constant(np.array(self.p.max, np.float32), "max")
        e.op("Clip", [bottoms[0], low, high], tops)


@register("Threshold")
class Threshold(Layer):
    """Step function: ``y = 1`` where ``x > threshold``, else 0.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        threshold (0).
    Gradient:
        none; the layer stops it.
    ONNX:
        Greater and Cast.
    Caffe source:
        threshold_layer.cpp
    Differences:
        a backward pass through it stops there; Caffe aborts.
    """

    param_field = "threshold_param"
    differentiable = False

    def forward(self, x: Tensor) -> Tensor:
        """Compare."""
        return (x > self.p.threshold).to(x.dtype)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Greater and Cast."""
        limit = e.constant(np.array(self.p.threshold, np.float32), "threshold")
        (above,) = e.op("Greater", [bottoms[0], limit])
        e.op("Cast", [above], tops, to=_FLOAT)


@register("ReLU6")
class ReLU6(Layer):
    """Rectifier that ends at 6: ``y = min(max(x, 0), 6) + negative_slope * min(x, 0)``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        negative_slope (0): slope for x < 0.
    Gradient:
        at x = 0 it is negative_slope, at x = 6 it is 0.
    ONNX:
        Clip; LeakyRelu and Min with a slope.
    Caffe source:
        relu6_layer.cpp of the MobileNet forks
    Differences:
        none.
    """

    param_field = "relu6_param"

    def forward(self, x: Tensor) -> Tensor:
        """Rectify and limit."""
        limited = functional.relu6(x)
        slope = self.p.negative_slope
        return torch.where(x > 0, limited, x * slope) if slope else limited

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Clip to 0 .. 6, or LeakyRelu limited at 6."""
        six = e.constant(np.array(6, np.float32), "six")
        if self.p.negative_slope:
            (leaky,) = e.op("LeakyRelu", bottoms, alpha=float(self.p.negative_slope))
            e.op("Min", [leaky, six], tops)
        else:
            e.op("Clip", [bottoms[0], e.constant(np.array(0, np.float32), "zero"), six], tops)


@register("HSigmoid")
class HSigmoid(Layer):
    """Sigmoid of straight lines: ``y = min(max(x + 3, 0), 6) / 6``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Gradient:
        1/6 for -3 < x < 3, else 0.
    ONNX:
        HardSigmoid.
    Caffe source:
        hsigmoid_layer.cpp of the MobileNet forks
    Differences:
        none.
    """

    param_field = "hsigmoid_param"

    def forward(self, x: Tensor) -> Tensor:
        """Squash to 0 .. 1."""
        return functional.relu6(x + 3) / 6

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """HardSigmoid with slope 1/6."""
        e.op("HardSigmoid", bottoms, tops, alpha=1 / 6, beta=0.5)


@register("HSwish")
class HSwish(Layer):
    """Value gated by the sigmoid of straight lines: ``y = x * min(max(x + 3, 0), 6) / 6``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    ONNX:
        HardSigmoid and Mul.
    Caffe source:
        hswish_layer.cpp of the MobileNet forks
    Differences:
        none.
    """

    param_field = "hswish_param"

    def forward(self, x: Tensor) -> Tensor:
        """Gate."""
        return x * (functional.relu6(x + 3) / 6)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """HardSigmoid and product."""
        (gate,) = e.op("HardSigmoid", bottoms, alpha=1 / 6, beta=0.5)
        e.op("Mul", [bottoms[0], gate], tops)
