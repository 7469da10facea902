"""InfogainLoss: cross entropy with a matrix of label similarities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, between
from caffe_bridge.layers.loss import (
    Loss,
    check_positions,
    class_labels,
    emit_counts,
    emit_labels,
    emit_normalised,
    emit_sum,
    floor,
    ignored,
    normalise,
    normalization,
    refuse_fork_fields,
    scalar,
)
from caffe_bridge.layers.registry import register
from caffe_bridge.schema import read_blob

#: log(1e-20): probabilities are not taken below 1e-20.
_LEAST = math.log(1e-20)


@register("InfogainLoss")
class InfogainLoss(Loss):
    """Information gain: ``-sum_l H[label, l] log(max(softmax(x)_l, 1e-20)) / normaliser``.

    With H the unit matrix it is SoftmaxWithLoss.

    Bottoms:
        x: (*outer, C, *inner) scores, C classes on ``axis``.
        label: outer * inner class numbers in any shape; truncated to integers.
        H: optional, C * C values, instead of ``source``.
    Tops:
        loss: ().
        p: optional, the probabilities, shaped like x; no gradient comes back through it.
    Parameters:
        infogain_loss_param.source: binaryproto with H; infogain_loss_param.axis (1);
        loss_param.ignore_label: such positions cost nothing; loss_param.normalization (VALID);
        loss_param.normalize is refused.
    Gradient:
        ``(p sum_l H[label, l] - H[label]) / normaliser``, also below 1e-20.
    ONNX:
        LogSoftmax, Gather of the rows of H, Transpose, Mul, ReduceSum, Div.
    Caffe source:
        infogain_loss_layer.cpp
    Differences:
        a label outside the classes is an error (Caffe reads other memory).
    """

    param_field = "loss_param"
    bottoms = between(2, 3)
    tops = between(1, 2)
    no_gradient_bottoms = (1, 2)
    matrix: Tensor

    def configure(self) -> None:
        """Check the loss parameters and read the matrix file."""
        refuse_fork_fields(self)
        if self.p.has("normalize"):
            self.fail("loss_param.normalize is not known here; use normalization.")
        self.mode = normalization(self)
        info = self.spec.record.infogain_loss_param
        matrix = torch.empty(0)
        if len(self.spec.bottoms) < 3:
            if not info.has("source"):
                self.fail("has no matrix; give infogain_loss_param.source or a third bottom.")
            matrix = torch.from_numpy(np.array(read_blob(info.source).array(), np.float32))
        self.register_buffer("matrix", matrix, persistent=False)

    def class_axis(self, shape: Shape) -> int:
        """Axis of the classes in bottom 0."""
        return self.axis(self.spec.record.infogain_loss_param.axis, shape)

    def check_bottoms(self, shapes: Sequence[Shape]) -> None:
        """One label for each position, and a square matrix of the classes."""
        axis = self.class_axis(shapes[0])
        check_positions(self, shapes, axis)
        size = math.prod(shapes[2]) if len(shapes) > 2 else self.matrix.numel()
        classes = shapes[0][axis]
        if size != classes * classes:
            self.fail(
                f"the infogain matrix holds {size} values but {classes} classes need "
                f"{classes} x {classes}."
            )

    def forward(self, x: Tensor, label: Tensor, matrix: Tensor | None = None) -> list[Tensor]:
        """Loss, and the probabilities when wanted."""
        axis = self.class_axis(tuple(x.shape))
        classes = x.shape[axis]
        gains = (self.matrix if matrix is None else matrix.detach()).to(x).reshape(classes, classes)
        logs = x.log_softmax(axis)
        places = label.reshape(*x.shape[:axis], *x.shape[axis + 1 :])
        whole, counts = class_labels(self, places, classes, ignored(self))
        costs = -(floor(logs, _LEAST).movedim(axis, -1) * gains[whole]).sum(-1) * counts
        loss = normalise(self, self.mode, costs.sum(), counts, math.prod(x.shape[:axis]))
        return [loss, logs.detach().exp()][: len(self.spec.tops)]

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Gather the rows of H by label, bring the classes last and multiply."""
        shape = e.shape(bottoms[0])
        axis, rank = self.class_axis(shape), len(shape)
        classes = int(shape[axis])
        if len(tops) > 1:
            e.op("Softmax", [bottoms[0]], [tops[1]], axis=axis)
        (logs,) = e.op("LogSoftmax", [bottoms[0]], axis=axis)
        (logs,) = e.op("Max", [logs, scalar(e, _LEAST, "least")])
        if axis != rank - 1:
            order = [*(i for i in range(rank) if i != axis), axis]
            (logs,) = e.op("Transpose", [logs], perm=order)
        if len(bottoms) > 2:
            square = e.constant(np.array([classes, classes], np.int64), "square")
            (gains,) = e.op("Reshape", [bottoms[2], square])
        else:
            array = self.matrix.detach().cpu().numpy().reshape(classes, classes)
            gains = e.constant(array, "infogain")
        labels = emit_labels(e, bottoms[1], (*shape[:axis], *shape[axis + 1 :]))
        counts = emit_counts(e, labels, ignored(self))
        safe = labels
        if counts is not None:
            (safe,) = e.op("Where", [counts, labels, e.constant(np.array(0, np.int64), "first")])
        (rows,) = e.op("Gather", [gains, safe], axis=0)
        (products,) = e.op("Mul", [logs, rows])
        costs = e.reduce("ReduceSum", products, [rank - 1], keepdims=False)
        (costs,) = e.op("Neg", [costs])
        total = emit_sum(e, costs, rank - 1, counts)
        inner = math.prod(shape[axis + 1 :])
        emit_normalised(e, self, self.mode, total, labels, rank - 1, counts, inner, tops[0])
