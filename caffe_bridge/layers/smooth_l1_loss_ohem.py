"""SmoothL1LossOHEM: R-FCN's SmoothL1Loss, which tells each box's part."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, between
from caffe_bridge.layers.box_annotator_ohem import four
from caffe_bridge.layers.loss import (
    Loss,
    check_same,
    emit_smooth_l1,
    normalization,
    scalar,
)
from caffe_bridge.layers.registry import register


@register("SmoothL1LossOHEM")
class SmoothL1LossOHEM(Loss):
    """``sum f(w (a - b)) / normaliser``.

    ``f(d) = d^2 / 2`` where ``|d| < 1``, else ``|d| - 1/2``.

    Bottoms:
        a: (N, C, ...); b: as many values; w (optional): factors, as many values.
    Tops:
        loss: ().
        parts (optional): (N, 1, h, w), each position's sum over C; no gradient comes back.
    Parameters:
        loss_param.normalization (VALID): VALID and FULL divide by the N * h * w positions,
        BATCH_SIZE by N, PRE_FIXED by pre_fixed_normalizer, NONE by 1; by 1 at least.
    Gradient:
        ``f'(w (a - b)) / normaliser`` for a, its negative for b: as in R-FCN without the factor w,
        which is the derivative where weights are 0 or 1; none for the weights.
    ONNX:
        Abs, Min, Mul and sums.
    Caffe source:
        smooth_L1_loss_layer.cu of daijifeng001/caffe-rfcn, smooth_L1_loss_ohem_layer.cpp of Intel
    Differences:
        none.
    """

    bottoms = between(2, 3)
    tops = between(1, 2)
    no_gradient_bottoms = (2,)

    def configure(self) -> None:
        """The loss parameters."""
        self.p = self.spec.record.loss_param
        self.mode = normalization(self)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """A scalar, and Caffe's four axes with one channel."""
        for other in shapes[1:]:
            check_same(self, [shapes[0], other])
        whole = four(shapes[0])
        return [(), (whole[0], 1, *whole[2:])][: len(self.spec.tops)]

    def normaliser(self, shape: Shape) -> float:
        """What the sum is divided by, at least 1."""
        whole = four(shape)
        places = whole[0] * whole[2] * whole[3]
        sizes = {"BATCH_SIZE": whole[0], "PRE_FIXED": float(self.p.pre_fixed_normalizer), "NONE": 1}
        return max(1.0, float(sizes.get(self.mode, places)))

    def forward(self, a: Tensor, b: Tensor, *weights: Tensor) -> list[Tensor]:
        """Sum, normalise, and the parts when wanted."""
        gap = a - b.reshape(a.shape)
        if weights:  # weighted values with the gradient of those without weights
            gap = (gap * weights[0].reshape(a.shape) - gap).detach() + gap
        size = gap.abs()
        values = torch.where(size < 1, gap.square() / 2, size - 0.5)
        made = [values.sum() / self.normaliser(tuple(a.shape))]
        if len(self.spec.tops) > 1:
            made.append(values.detach().reshape(four(tuple(a.shape))).sum(1, keepdim=True))
        return made

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """With m = min(|d|, 1): f = m^2 / 2 + |d| - m."""
        shape = e.shape(bottoms[0])
        values, _ = emit_smooth_l1(e, bottoms, 1.0)
        if len(tops) > 1:
            whole = four(shape)
            placed = values if tuple(shape) == whole else e.reshape(values, whole)
            e.reduce("ReduceSum", placed, [1], tops[1])
        axes, count = list(range(len(shape))), math.prod(shape)
        if self.mode in ("PRE_FIXED", "NONE"):
            total = e.reduce("ReduceSum", values, axes, keepdims=False)
            e.op("Div", [total, scalar(e, self.normaliser(shape), "normalizer")], [tops[0]])
            return
        mean = e.reduce("ReduceMean", values, axes, keepdims=False)
        each = count / self.normaliser(shape)
        e.op("Mul", [mean, scalar(e, each, "each")], [tops[0]])
