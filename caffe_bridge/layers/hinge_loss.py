"""HingeLoss: one class against all others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.layers.base import Emitter
from caffe_bridge.layers.loss import Loss, class_labels, emit_labels, emit_one_hot, scalar
from caffe_bridge.layers.registry import register


@register("HingeLoss")
class HingeLoss(Loss):
    """Hinge: ``sum m / N`` (L1) or ``sum m^2 / N`` (L2) with ``m = max(0, 1 + s x)``.

    s is -1 for the label's class and 1 for every other class.

    Bottoms:
        x: (N, ...) scores; the C values of a row are the classes.
        label: N class numbers; truncated to integers.
    Tops:
        loss: ().
    Parameters:
        hinge_loss_param.norm (L1): L1 or L2.
    Gradient:
        that of the formula, 0 at the hinge.
    ONNX:
        Equal with the class numbers, Where, Relu, ReduceSum, ReduceMean.
    Caffe source:
        hinge_loss_layer.cpp
    Differences:
        a label outside the classes is an error (Caffe writes to other memory).
    """

    param_field = "hinge_loss_param"

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Sum of the margins over the number of rows."""
        rows = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        whole, _ = class_labels(self, label.reshape(-1, 1), rows.shape[1])
        signs = torch.ones_like(rows.detach()).scatter_(1, whole, -1.0)
        margins = (1 + signs * rows).relu()
        return (margins if self.p.norm == "L1" else margins.square()).sum() / x.shape[0]

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Row sums of the margins, then their mean."""
        shape = e.shape(bottoms[0])
        classes = math.prod(shape[1:])
        rows = bottoms[0] if len(shape) == 2 else e.reshape(bottoms[0], (shape[0], classes))
        labels = emit_labels(e, bottoms[1], (shape[0], 1))
        hot = emit_one_hot(e, labels, classes, 2, 1)
        (signs,) = e.op("Where", [hot, scalar(e, -1.0, "minus"), scalar(e, 1.0, "plus")])
        (signed,) = e.op("Mul", [rows, signs])
        (margins,) = e.op("Add", [signed, scalar(e, 1.0, "plus")])
        (margins,) = e.op("Relu", [margins])
        if self.p.norm != "L1":
            (margins,) = e.op("Mul", [margins, margins])
        sums = e.reduce("ReduceSum", margins, [1], keepdims=False)
        e.reduce("ReduceMean", sums, [0], tops[0], keepdims=False)
