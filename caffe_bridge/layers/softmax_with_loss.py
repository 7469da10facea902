"""SoftmaxWithLoss: the multinomial logistic loss of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
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
    emit_one_hot,
    emit_sum,
    floor,
    ignored,
    normalise,
    normalization,
    refuse_fork_fields,
    scalar,
)
from caffe_bridge.layers.registry import register

#: log(FLT_MIN): probabilities are not taken below the smallest normal float32.
_LEAST = math.log(float(np.finfo(np.float32).tiny))


def _parts(label: Shape) -> Shape:
    """Shape of the costs of the positions."""
    return (*label, 1, 1, 1) if len(label) == 1 else tuple(label)


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(Loss):
    """Softmax and cross entropy: ``-sum log(max(p[label], FLT_MIN)) / normaliser``.

    Bottoms:
        x: (*outer, C, *inner) scores, C classes on ``axis``.
        label: outer * inner class numbers in any shape; truncated to integers.
    Tops:
        loss: ().
        p: optional, the probabilities, shaped like x; no gradient comes back through it.
        parts: optional, the cost of each position, shaped like label or, where that has one axis,
        (N, 1, 1, 1) as R-FCN's labels have it; no gradient either.
    Parameters:
        softmax_param.axis (1); loss_param.ignore_label: such positions cost nothing;
        loss_param.normalization (VALID): FULL, VALID, BATCH_SIZE, NONE or PRE_FIXED, the
        normaliser is at least 1; loss_param.normalize: the old form, true = VALID, false =
        BATCH_SIZE.
    Gradient:
        ``(p - onehot(label)) / normaliser``, also where the loss is cut off at FLT_MIN.
    ONNX:
        LogSoftmax, Equal with the class numbers, Where, ReduceSum, Div.
    Caffe source:
        softmax_loss_layer.cpp
    Differences:
        a label outside the classes is an error (Caffe reads other memory).
    """

    param_field = "loss_param"
    tops = between(1, 3)

    def configure(self) -> None:
        """Check the loss parameters."""
        refuse_fork_fields(self)
        self.mode = normalization(self)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """A scalar, the shape of x, and that of the parts."""
        self.check_bottoms(shapes)
        return [(), tuple(shapes[0]), _parts(shapes[1])][: len(self.spec.tops)]

    def class_axis(self, shape: Shape) -> int:
        """Axis of the classes in bottom 0."""
        return self.axis(self.spec.record.softmax_param.axis, shape)

    def check_bottoms(self, shapes: Sequence[Shape]) -> None:
        """One label for each position beside the class axis."""
        check_positions(self, shapes, self.class_axis(shapes[0]))

    def forward(self, x: Tensor, label: Tensor) -> list[Tensor]:
        """Loss, and probabilities and costs when wanted."""
        axis = self.class_axis(tuple(x.shape))
        logs = x.log_softmax(axis)
        places = label.reshape(*x.shape[:axis], 1, *x.shape[axis + 1 :])
        whole, counts = class_labels(self, places, x.shape[axis], ignored(self))
        costs = -floor(logs.gather(axis, whole), _LEAST) * counts
        loss = normalise(self, self.mode, costs.sum(), counts, math.prod(x.shape[:axis]))
        made = [loss, logs.detach().exp(), costs.detach().reshape(_parts(tuple(label.shape)))]
        return made[: len(self.spec.tops)]

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Pick the label's log probability by comparison, sum and normalise."""
        shape = e.shape(bottoms[0])
        axis, rank = self.class_axis(shape), len(shape)
        if len(tops) > 1:
            e.op("Softmax", [bottoms[0]], [tops[1]], axis=axis)
        (logs,) = e.op("LogSoftmax", [bottoms[0]], axis=axis)
        (logs,) = e.op("Max", [logs, scalar(e, _LEAST, "least")])
        (costs,) = e.op("Neg", [logs])
        labels = emit_labels(e, bottoms[1], (*shape[:axis], 1, *shape[axis + 1 :]))
        counts = emit_counts(e, labels, ignored(self))
        hot = emit_one_hot(e, labels, shape[axis], rank, axis)
        picked = hot if counts is None else e.op("And", [hot, counts])[0]
        if len(tops) > 2:
            (parts,) = e.op("Where", [picked, costs, scalar(e, 0.0, "zero")])
            parts = e.reduce("ReduceSum", parts, [axis], keepdims=False)
            e.reshape(parts, _parts(e.shape(bottoms[1])), tops[2])
        total = emit_sum(e, costs, rank, picked)
        inner = math.prod(shape[axis + 1 :])
        emit_normalised(e, self, self.mode, total, labels, rank, counts, inner, tops[0])
