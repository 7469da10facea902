"""SigmoidCrossEntropyLoss: independent yes/no targets on scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter
from caffe_bridge.layers.loss import (
    Loss,
    check_same,
    emit_counts,
    emit_labels,
    emit_normalised,
    emit_sum,
    ignored,
    normalise,
    normalization,
    refuse_fork_fields,
)
from caffe_bridge.layers.registry import register


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """Cross entropy of ``sigmoid(x)``: ``sum (log(1 + exp(x)) - x t) / normaliser``.

    Bottoms:
        x: (N, ...) scores.
        t: (N, ...) targets from 0 to 1, as many in a row.
    Tops:
        loss: ().
    Parameters:
        loss_param.ignore_label: targets that are this after truncation cost nothing;
        loss_param.normalization (BATCH_SIZE, unlike other losses): FULL, VALID, BATCH_SIZE, NONE
        or PRE_FIXED, the normaliser is at least 1; loss_param.normalize: the old form, true =
        VALID, false = BATCH_SIZE.
    Gradient:
        ``(sigmoid(x) - t) / normaliser`` for x, none for t.
    ONNX:
        Relu, Mul, Abs, Softplus, ReduceSum, Div.
    Caffe source:
        sigmoid_cross_entropy_loss_layer.cpp
    Differences:
        none.
    """

    param_field = "loss_param"

    def configure(self) -> None:
        """Check the loss parameters."""
        refuse_fork_fields(self)
        self.mode = normalization(self, "BATCH_SIZE")

    def check_bottoms(self, shapes: Sequence[Shape]) -> None:
        """Equal rows."""
        check_same(self, shapes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Sum of the costs over the normaliser."""
        target = t.detach().reshape(x.shape)
        ignore = ignored(self)
        counts = torch.ones_like(x, dtype=torch.bool) if ignore is None else target.long() != ignore
        costs = functional.binary_cross_entropy_with_logits(x, target, reduction="none")
        total = costs.where(counts, torch.zeros_like(costs)).sum()
        return normalise(self, self.mode, total, counts, x.shape[0])

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """``max(x, 0) - x t + log(1 + exp(-|x|))``, which does not overflow."""
        x, target = bottoms
        shape = e.shape(x)
        rank = len(shape)
        if tuple(e.shape(target)) != tuple(shape):
            target = e.reshape(target, shape)
        ignore = ignored(self)
        counts = None
        if ignore is not None:
            counts = emit_counts(e, emit_labels(e, bottoms[1], shape), ignore)
        (positive,) = e.op("Relu", [x])
        (product,) = e.op("Mul", [x, target])
        (costs,) = e.op("Sub", [positive, product])
        (size,) = e.op("Abs", [x])
        (negative,) = e.op("Neg", [size])
        (rest,) = e.op("Softplus", [negative])
        (costs,) = e.op("Add", [costs, rest])
        total = emit_sum(e, costs, rank, counts)
        emit_normalised(e, self, self.mode, total, x, rank, counts, math.prod(shape[1:]), tops[0])
