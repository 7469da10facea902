"""Power, Exp, Log and AbsVal: arithmetic on every value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


def _affine(e: Emitter, value: str, scale: float, shift: float) -> str:
    """Nodes for ``shift + scale * value``; none where they would change nothing."""
    if scale != 1:
        (value,) = e.op("Mul", [value, e.constant(np.array(scale, np.float32), "scale")])
    if shift != 0:
        (value,) = e.op("Add", [value, e.constant(np.array(shift, np.float32), "shift")])
    return value


@register("Power")
class Power(Layer):
    """Power of a line: ``y = (shift + scale * x) ^ power``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        power (1), scale (1), shift (0). When power * scale is 0, y is the constant
        shift ^ power (1 for power 0) whatever x is.
    ONNX:
        Mul, Add, Pow as needed; Expand of a constant; no node for the identity.
    Caffe source:
        power_layer.cpp
    Differences:
        where shift + scale * x is 0 the gradient is the limit; Caffe divides 0 by 0.
    """

    param_field = "power_param"

    def _constant(self) -> float | None:
        if self.p.power * self.p.scale != 0:
            return None
        return 1.0 if self.p.power == 0 else float(np.float32(self.p.shift) ** self.p.power)

    def forward(self, x: Tensor) -> Tensor:
        """Raise."""
        constant = self._constant()
        if constant is not None:
            return x.new_full(x.shape, constant)
        y = x * self.p.scale + self.p.shift
        return y if self.p.power == 1 else y**self.p.power

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """The steps that are not the identity."""
        constant = self._constant()
        if constant is not None:
            (shape,) = e.op("Shape", bottoms)
            e.op("Expand", [e.constant(np.array(constant, np.float32), "value"), shape], tops)
            return
        steps = [
            (op, float(getattr(self.p, name)), name)
            for op, name, neutral in (("Mul", "scale", 1), ("Add", "shift", 0), ("Pow", "power", 1))
            if getattr(self.p, name) != neutral
        ]
        if not steps:
            e.alias(bottoms[0], tops[0])
            return
        x = bottoms[0]
        for position, (op, value, name) in enumerate(steps, 1):
            target = tops if position == len(steps) else 1
            (x,) = e.op(op, [x, e.constant(np.array(value, np.float32), name)], target)


def _log_of_base(layer: Layer) -> float:
    """Natural logarithm of the ``base`` parameter; -1 stands for e."""
    base = layer.p.base
    if base == -1:
        return 1.0
    if base <= 0 or (base == 1 and layer.param_field == "log_param"):
        layer.fail(f"base {base:g} has no logarithm to divide by; use -1 (for e) or another base.")
    return math.log(base)


@register("Exp")
class Exp(Layer):
    """Exponential of a line: ``y = base ^ (shift + scale * x)``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        base (-1, which stands for e; else positive), scale (1), shift (0).
    ONNX:
        Mul, Exp, Mul as needed.
    Caffe source:
        exp_layer.cpp
    Differences:
        none.
    """

    param_field = "exp_param"

    def configure(self) -> None:
        """Fold the base into factors inside and outside of e^x."""
        log_base = _log_of_base(self)
        self.inner = log_base * self.p.scale
        with np.errstate(over="ignore"):  # beyond single precision it is infinite, as in Caffe
            self.outer = float(np.float32(np.exp(log_base * self.p.shift)))

    def forward(self, x: Tensor) -> Tensor:
        """Exponentiate."""
        return torch.exp(x * self.inner) * self.outer

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """The factor outside is left out when it is 1."""
        inside = _affine(e, bottoms[0], self.inner, 0.0)
        if self.outer == 1:
            e.op("Exp", [inside], tops)
            return
        (power,) = e.op("Exp", [inside])
        e.op("Mul", [power, e.constant(np.array(self.outer, np.float32), "outer")], tops)


@register("Log")
class Log(Layer):
    """Logarithm of a line: ``y = log_base(shift + scale * x)``.

    Bottoms:
        x: any shape; shift + scale * x should be positive.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        base (-1, which stands for e; else positive and not 1), scale (1), shift (0).
    ONNX:
        Mul, Add, Log, Mul as needed.
    Caffe source:
        log_layer.cpp
    Differences:
        none.
    """

    param_field = "log_param"

    def configure(self) -> None:
        """Fold the base into one factor."""
        self.factor = 1.0 / _log_of_base(self)

    def forward(self, x: Tensor) -> Tensor:
        """Take the logarithm."""
        return torch.log(x * self.p.scale + self.p.shift) * self.factor

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """The factor is left out for base e."""
        inside = _affine(e, bottoms[0], self.p.scale, self.p.shift)
        if self.factor == 1:
            e.op("Log", [inside], tops)
            return
        (natural,) = e.op("Log", [inside])
        e.op("Mul", [natural, e.constant(np.array(self.factor, np.float32), "factor")], tops)


@register("AbsVal")
class AbsVal(Layer):
    """Absolute value: ``y = |x|``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; not in place.
    Gradient:
        sign(x), 0 at x = 0.
    ONNX:
        Abs.
    Caffe source:
        absval_layer.cpp
    Differences:
        none.
    """

    def configure(self) -> None:
        """Refuse to work in place."""
        if self.spec.tops[0] == self.spec.bottoms[0]:
            self.fail("cannot work in place; give its top another name.")

    def forward(self, x: Tensor) -> Tensor:
        """Drop the sign."""
        return x.abs()

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Abs."""
        e.op("Abs", bottoms, tops)
