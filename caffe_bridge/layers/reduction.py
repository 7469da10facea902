"""Reduction: sum or mean over all axes from one on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register

_ONNX = {"SUM": "ReduceSum", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare", "MEAN": "ReduceMean"}


@register("Reduction")
class Reduction(Layer):
    """Reduce the axes from ``axis`` to the last: ``y = coeff * op(x)``.

    Bottoms:
        x: (*lead, *reduced).
    Tops:
        y: (*lead,); () when axis is 0.
    Parameters:
        operation: SUM (default), ASUM (absolute values), SUMSQ (squares) or MEAN.
        axis (0): may be negative.
        coeff (1): factor on the result.
    Gradient:
        ASUM: sign(x), 0 at x = 0.
    ONNX:
        ReduceSum, ReduceL1, ReduceSumSquare or ReduceMean, and Mul when coeff is not 1.
    Caffe source:
        reduction_layer.cpp
    Differences:
        none.
    """

    param_field = "reduction_param"

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The leading axes."""
        return [tuple(shapes[0][: self.axis(int(self.p.axis), tuple(shapes[0]))])]

    def forward(self, x: Tensor) -> Tensor:
        """Reduce."""
        operation = self.p.operation
        if operation == "ASUM":
            x = x.abs()
        elif operation == "SUMSQ":
            x = x.square()
        axes = list(range(self.axis(int(self.p.axis), tuple(x.shape)), x.ndim))
        return (x.mean(axes) if operation == "MEAN" else x.sum(axes)) * self.p.coeff

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """One Reduce node, then the factor."""
        shape = e.shape(bottoms[0])
        axes = range(self.axis(int(self.p.axis), shape), len(shape))
        op, coeff = _ONNX[self.p.operation], float(self.p.coeff)
        if coeff == 1:
            e.reduce(op, bottoms[0], axes, tops[0], keepdims=False)
            return
        reduced = e.reduce(op, bottoms[0], axes, keepdims=False)
        e.op("Mul", [reduced, e.constant(np.array(coeff, np.float32), "coeff")], tops)
