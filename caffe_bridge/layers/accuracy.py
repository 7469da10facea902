"""Accuracy: how many labels are among the best scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, between, exactly
from caffe_bridge.layers.loss import (
    FLOAT,
    check_positions,
    class_labels,
    emit_count,
    emit_counts,
    emit_labels,
    emit_one_hot,
    emit_sum,
    ignored,
    scalar,
)
from caffe_bridge.layers.registry import register


@register("Accuracy")
class Accuracy(Layer):
    """Share of labels with fewer than ``top_k`` other classes scoring as high or higher.

    Ties count against: with equal scores and top_k 1 the accuracy is 0.

    Bottoms:
        x: (*outer, C, *inner) scores, C classes on ``axis``.
        label: outer * inner class numbers in any shape; truncated to integers.
    Tops:
        accuracy: (); 0 when no label counts.
        per_class: optional, (C,): the accuracy among the labels of each class, 0 without any.
    Parameters:
        top_k (1), axis (1), ignore_label: positions to leave out.
    Gradient:
        none.
    ONNX:
        Equal, Where, GreaterOrEqual, ReduceSum, Div.
    Caffe source:
        accuracy_layer.cpp
    Differences:
        a label outside the classes is an error (Caffe reads other memory).
    """

    param_field = "accuracy_param"
    bottoms = exactly(2)
    tops = between(1, 2)
    differentiable = False
    no_gradient_bottoms = (0, 1)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """A scalar, and one value for each class."""
        axis = self.axis(self.p.axis, shapes[0])
        check_positions(self, shapes, axis)
        classes = int(shapes[0][axis])
        if self.p.top_k > classes:
            self.fail(f"top_k {self.p.top_k} is more than the {classes} classes of bottom 0.")
        return [(), (classes,)][: len(self.spec.tops)]

    def forward(self, x: Tensor, label: Tensor) -> list[Tensor]:
        """Overall accuracy, and that of each class when wanted."""
        axis = self.axis(self.p.axis, tuple(x.shape))
        places = label.reshape(*x.shape[:axis], 1, *x.shape[axis + 1 :])
        whole, counts = class_labels(self, places, x.shape[axis], ignored(self))
        as_good = (x >= x.gather(axis, whole)).sum(axis, keepdim=True) - 1
        right = (as_good < self.p.top_k) & counts
        tops = [right.sum().to(x.dtype) / counts.sum().clamp(min=1)]
        if len(self.spec.tops) > 1:
            numbers = torch.stack([m.flatten().to(x.dtype) for m in (right, counts)], 1)
            sums = x.new_zeros(x.shape[axis], 2).index_add_(0, whole.flatten(), numbers)
            tops.append(sums[:, 0] / sums[:, 1].clamp(min=1))
        return tops

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Count the classes that score as high as the label's, itself included."""
        shape = e.shape(bottoms[0])
        axis, rank = self.axis(self.p.axis, shape), len(shape)
        classes = int(shape[axis])
        labels = emit_labels(e, bottoms[1], (*shape[:axis], 1, *shape[axis + 1 :]))
        counts = emit_counts(e, labels, ignored(self))
        hot = emit_one_hot(e, labels, classes, rank, axis)
        (own,) = e.op("Where", [hot, bottoms[0], scalar(e, 0.0, "zero")])
        own = e.reduce("ReduceSum", own, [axis])
        (as_good,) = e.op("GreaterOrEqual", [bottoms[0], own])
        (as_good,) = e.op("Cast", [as_good], to=FLOAT)
        as_good = e.reduce("ReduceSum", as_good, [axis])
        # The label's own class is among those counted, hence "at most top_k".
        (right,) = e.op("LessOrEqual", [as_good, scalar(e, float(self.p.top_k), "top_k")])
        if counts is not None:
            (right,) = e.op("And", [right, counts])
        (right,) = e.op("Cast", [right], to=FLOAT)
        if len(tops) > 1:
            self._emit_per_class(e, hot, counts, right, rank, axis, tops[1])
        total = emit_sum(e, right, rank)
        number = emit_count(e, labels, rank, counts)
        (number,) = e.op("Max", [number, scalar(e, 1.0, "one")])
        e.op("Div", [total, number], [tops[0]])

    def _emit_per_class(
        self, e: Emitter, hot: str, counts: str | None, right: str, rank: int, axis: int, top: str
    ) -> None:
        others = [i for i in range(rank) if i != axis]
        if counts is not None:
            (hot,) = e.op("And", [hot, counts])
        (member,) = e.op("Cast", [hot], to=FLOAT)
        (hits,) = e.op("Mul", [member, right])
        hits = e.reduce("ReduceSum", hits, others, keepdims=False) if others else hits
        size = e.reduce("ReduceSum", member, others, keepdims=False) if others else member
        (size,) = e.op("Max", [size, scalar(e, 1.0, "one")])
        e.op("Div", [hits, size], [top])
