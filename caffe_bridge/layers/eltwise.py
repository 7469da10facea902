"""Eltwise: product, weighted sum or maximum of blobs of one shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, at_least
from caffe_bridge.layers.registry import register


@register("Eltwise")
class Eltwise(Layer):
    """Element by element: PROD ``x_1 x_2 ..``, SUM ``c_1 x_1 + c_2 x_2 + ..`` or MAX.

    Bottoms:
        x_1 .. x_m: one shape, m at least 2; nothing is broadcast.
    Tops:
        y: the same shape.
    Parameters:
        operation (SUM), coeff (SUM: none or one per bottom; default 1), stable_prod_grad (true).
    Gradient:
        PROD: the product of the others, without division. MAX: all to the winner; of equal
        x_1 and x_2 the second wins, a later bottom must be larger.
    ONNX:
        Mul; Add and Sub; Max (a NaN in it is up to the runtime).
    Caffe source:
        eltwise_layer.cpp
    Differences:
        with ``stable_prod_grad: false`` Caffe divides by the factor and gives NaN where it is 0.
    """

    param_field = "eltwise_param"
    bottoms = at_least(2)

    def configure(self) -> None:
        """Check the number of coefficients."""
        given, needed = len(self.p.coeff), len(self.spec.bottoms)
        if given and self.p.operation == "PROD":
            self.fail("gives coeff with operation PROD; only SUM takes coefficients.")
        if given not in (0, needed):
            self.fail(f"gives {given} coeff for {needed} bottoms; give none or one each.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The common shape."""
        for one, other in pairwise(shapes):
            if tuple(one) != tuple(other):
                listed = ", ".join(str(tuple(s)) for s in shapes)
                self.fail(f"bottoms must have one shape, found {listed}.")
        return [tuple(shapes[0])]

    @property
    def coefficients(self) -> tuple[float, ...]:
        """One factor per bottom."""
        return tuple(self.p.coeff) or (1.0,) * len(self.spec.bottoms)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Combine."""
        for x in bottoms[1:]:
            if x.shape != bottoms[0].shape:
                self.infer([tuple(b.shape) for b in bottoms])
        if self.p.operation == "PROD":
            return math.prod(bottoms[1:], start=bottoms[0])
        if self.p.operation == "SUM":
            first = self.coefficients[0]
            total = bottoms[0] if first == 1 else bottoms[0] * first
            for x, factor in zip(bottoms[1:], self.coefficients[1:], strict=True):
                total = torch.add(total, x, alpha=factor)
            return total
        larger = torch.where(bottoms[0] > bottoms[1], bottoms[0], bottoms[1])
        return reduce(lambda y, x: torch.where(x > y, x, y), bottoms[2:], larger)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """A chain of Mul or of Add and Sub, or one Max."""
        if self.p.operation == "MAX":
            e.op("Max", bottoms, tops)
            return
        factors = self.coefficients
        total = self._term(e, bottoms[0], factors[0]) if self.p.operation == "SUM" else bottoms[0]
        for index, (source, factor) in enumerate(zip(bottoms, factors, strict=True)):
            if index == 0:
                continue
            operator = "Mul"
            if self.p.operation == "SUM":
                operator = "Sub" if factor < 0 else "Add"
                source = self._term(e, source, abs(factor))
            last = index == len(bottoms) - 1
            (total,) = e.op(operator, [total, source], tops if last else 1)

    def _term(self, e: Emitter, source: str, factor: float) -> str:
        if factor == 1:
            return source
        return e.op("Mul", [source, e.constant(np.array(factor, np.float32), "coeff")])[0]
