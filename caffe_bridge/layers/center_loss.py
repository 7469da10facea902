"""CenterLoss: distance of features from their class's centre, which follows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter
from caffe_bridge.layers.loss import Loss, class_labels, emit_labels, scalar
from caffe_bridge.layers.registry import register


class _Follow(torch.autograd.Function):
    """``sum |x - c|^2 / (2 M)`` of rows x and their classes' centres."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
        gap = x - centres[labels]
        ctx.save_for_backward(gap, centres, labels)
        return gap.square().sum() / (2 * len(x))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        gap, centres, labels = ctx.saved_tensors
        sums = torch.zeros_like(centres).index_add(0, labels, -gap)
        counts = torch.bincount(labels, minlength=len(centres))
        return grads[0] * gap / len(gap), sums / (1 + counts)[:, None], None


@register("CenterLoss")
class CenterLoss(Loss):
    """Half the mean squared distance of features from their class's centre.

    Bottoms:
        x: (M, ...) features, flattened from ``axis`` on.
        label: M class numbers; truncated to integers.
    Tops:
        loss: ().
    Blobs:
        centres: (num_output, K), ``center_filler``.
    Parameters:
        num_output: classes; axis (1).
    Gradient:
        of x ``(x - c) / M`` times the top's; of the centre of a class with n rows
        ``sum (c - x) / (1 + n)``, whatever the loss weight is.
    ONNX:
        Gather, Sub, Mul, ReduceSum, ReduceMean.
    Caffe source:
        center_loss_layer.cpp of ydwen/caffe-face
    Differences:
        a label outside the classes is an error (there, other memory is read).
    """

    param_field = "center_loss_param"

    def configure(self) -> None:
        """Check the number of classes."""
        if self.p.num_output < 1:
            self.fail("num_output is missing or zero; give the number of classes.")

    def check_bottoms(self, shapes: Sequence[Shape]) -> None:
        """One label for each row of features."""
        x, label = tuple(shapes[0]), tuple(shapes[1])
        rows = math.prod(x[: self.axis(self.p.axis, x)])
        if math.prod(label) != rows:
            self.fail(f"label (bottom 1) has shape {label}, expected {rows} values as of {x}.")

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """The centres."""
        x = tuple(shapes[0])
        size = math.prod(x[self.axis(self.p.axis, x) :])
        return [BlobSpec((int(self.p.num_output), size), self.p.center_filler)]

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The loss."""
        whole, _ = class_labels(self, label.reshape(-1, 1), int(self.p.num_output))
        rows = x.reshape(len(whole), -1)
        loss: Tensor = _Follow.apply(rows, self.blobs[0], whole[:, 0])
        return loss

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Squared distances of the rows, then half their mean."""
        shape = e.shape(bottoms[0])
        if self.axis(self.p.axis, shape) != 1:
            self.refuse(f"axis {self.p.axis} has no ONNX form here; only features on axis 1.")
        rows = e.reshape(bottoms[0], (shape[0], math.prod(shape[1:])))
        labels = emit_labels(e, bottoms[1], (shape[0],))
        (centres,) = e.op("Gather", [e.blob(0), labels], axis=0)
        (gap,) = e.op("Sub", [rows, centres])
        (squares,) = e.op("Mul", [gap, gap])
        sums = e.reduce("ReduceSum", squares, [1], keepdims=False)
        mean = e.reduce("ReduceMean", sums, [0], keepdims=False)
        e.op("Mul", [mean, scalar(e, 0.5, "half")], tops)
