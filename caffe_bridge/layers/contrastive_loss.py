"""ContrastiveLoss: distances of pairs that are alike or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, exactly
from caffe_bridge.layers.loss import INT64, Loss, check_rows, scalar
from caffe_bridge.layers.registry import register

#: Added to the distance that the gradient divides by.
_GUARD = 1e-4
#: TensorProto element type of booleans.
_BOOL = 9


class _Margin(torch.autograd.Function):
    """``max(margin - |gap|, 0)^2`` of each row of gaps, with Caffe's guarded gradient."""

    @staticmethod
    def forward(ctx: Any, gap: Tensor, margin: float) -> Tensor:
        distance = gap.square().sum(1).sqrt()
        short = (margin - distance).clamp(min=0)
        ctx.save_for_backward(gap, short / (distance + _GUARD))
        return short.square()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        gap, factor = ctx.saved_tensors
        return (-2 * grads[0] * factor)[:, None] * gap, None


@register("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """Contrastive: ``sum [s d^2 + (1 - s) max(margin - d, 0)^2] / (2 N)``, d = |a - b|.

    The legacy version has ``max(margin - d^2, 0)`` in place of the second square.

    Bottoms:
        a: (N, C), or with further axes of size 1.
        b: the same.
        s: N values; alike where the truncated value is not 0.
    Tops:
        loss: ().
    Parameters:
        margin (1), legacy_version (false).
    Gradient:
        of unlike pairs: ``-(margin - d) (a - b) / (N (d + 1e-4))`` within the margin (legacy:
        ``-(a - b) / N``), else 0; b has the opposite sign.
    ONNX:
        Sub, Mul, ReduceSum, Sqrt, Relu, Where, ReduceMean.
    Caffe source:
        contrastive_loss_layer.cpp
    Differences:
        none.
    """

    param_field = "contrastive_loss_param"
    bottoms = exactly(3)
    no_gradient_bottoms = (2,)

    def check_bottoms(self, shapes: Sequence[Shape]) -> None:
        """Rows of equal vectors, one similarity each."""
        first, second = shapes[0], shapes[1]
        if len(first) < 2 or tuple(first[:2]) != tuple(second[:2]) or (
            math.prod(first[2:]) != 1 or math.prod(second[2:]) != 1
        ):  # fmt: skip
            self.fail(
                f"bottoms of shapes {tuple(first)} and {tuple(second)} are no pairs of vectors; "
                "give both as (N, C)."
            )
        check_rows(self, shapes, 2)

    def forward(self, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        """Half the mean cost of a pair."""
        gap = a.flatten(1) - b.flatten(1)
        squares = gap.square().sum(1)
        if self.p.legacy_version:
            unlike = (self.p.margin - squares).relu()
        else:
            unlike = _Margin.apply(gap, float(self.p.margin))
        alike = s.detach().reshape(-1).long() != 0
        return squares.where(alike, unlike).sum() / (2 * a.shape[0])

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Both costs of every pair, then the one that applies."""
        shape = e.shape(bottoms[0])
        rows = [b if len(e.shape(b)) == 2 else e.reshape(b, shape[:2]) for b in bottoms[:2]]
        (gap,) = e.op("Sub", rows)
        (squares,) = e.op("Mul", [gap, gap])
        squares = e.reduce("ReduceSum", squares, [1], keepdims=False)
        margin = scalar(e, float(self.p.margin), "margin")
        if self.p.legacy_version:
            (short,) = e.op("Sub", [margin, squares])
            (unlike,) = e.op("Relu", [short])
        else:
            (distance,) = e.op("Sqrt", [squares])
            (short,) = e.op("Sub", [margin, distance])
            (short,) = e.op("Relu", [short])
            (unlike,) = e.op("Mul", [short, short])
        alike = bottoms[2]
        if len(e.shape(alike)) != 1:
            alike = e.reshape(alike, shape[:1])
        (alike,) = e.op("Cast", [alike], to=INT64)
        (alike,) = e.op("Cast", [alike], to=_BOOL)
        (costs,) = e.op("Where", [alike, squares, unlike])
        mean = e.reduce("ReduceMean", costs, [0], keepdims=False)
        e.op("Mul", [mean, scalar(e, 0.5, "half")], tops)
