"""MultinomialLogisticLoss: cross entropy of probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.layers.base import Emitter
from caffe_bridge.layers.loss import (
    Loss,
    class_labels,
    emit_labels,
    emit_one_hot,
    floor,
    scalar,
)
from caffe_bridge.layers.registry import register

#: Probabilities are not taken below this.
_LEAST = 1e-20


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """Cross entropy of given probabilities: ``-sum log(max(p[label], 1e-20)) / N``.

    Bottoms:
        p: (N, ...) probabilities; the C values of a row are the classes.
        label: N class numbers; truncated to integers.
    Tops:
        loss: ().
    Parameters:
        none.
    Gradient:
        ``-1 / (N max(p, 1e-20))`` at the label, also below 1e-20.
    ONNX:
        Equal with the class numbers, Where, Max, Log, ReduceMean.
    Caffe source:
        multinomial_logistic_loss_layer.cpp
    Differences:
        a label outside the classes is an error (Caffe reads other memory).
    """

    def forward(self, p: Tensor, label: Tensor) -> Tensor:
        """Mean of the negative log probabilities of the labels."""
        rows = p.reshape(p.shape[0], math.prod(p.shape[1:]))
        whole, _ = class_labels(self, label.reshape(-1, 1), rows.shape[1])
        return -floor(rows.gather(1, whole), _LEAST).log().sum() / p.shape[0]

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Pick the label's probability by comparison."""
        shape = e.shape(bottoms[0])
        classes = math.prod(shape[1:])
        rows = bottoms[0] if len(shape) == 2 else e.reshape(bottoms[0], (shape[0], classes))
        labels = emit_labels(e, bottoms[1], (shape[0], 1))
        hot = emit_one_hot(e, labels, classes, 2, 1)
        (picked,) = e.op("Where", [hot, rows, scalar(e, 0.0, "zero")])
        picked = e.reduce("ReduceSum", picked, [1], keepdims=False)
        (picked,) = e.op("Max", [picked, scalar(e, _LEAST, "least")])
        (logs,) = e.op("Log", [picked])
        mean = e.reduce("ReduceMean", logs, [0], keepdims=False)
        e.op("Neg", [mean], tops)
