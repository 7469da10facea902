"""LabelsequenceAccuracy: share of the sequences that are read without a mistake."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register


def collapsed(path: Tensor, blank: int) -> Tensor:
    """Symbols of a path (T,): repetitions become one, blanks none."""
    fresh = torch.ones_like(path, dtype=torch.bool)
    fresh[1:] = path[1:] != path[:-1]
    return path[fresh & (path != blank)]


@register("LabelsequenceAccuracy")
class LabelsequenceAccuracy(Layer):
    """Share of the sequences whose best path, collapsed as in CTC, is the label.

    Bottoms:
        x: (N, T, C) scores; label: (N, L) symbols, blanks left out.
    Tops:
        accuracy: ().
    Parameters:
        blank_label (0).
    Gradient:
        none.
    ONNX:
        not possible here: sequences of unlike lengths are compared.
    Caffe source:
        labelsequence_accuracy_layer.cpp of xmfbit/warpctc-caffe
    Differences:
        none.
    """

    param_field = "labelsequence_accuracy_param"
    bottoms = exactly(2)
    differentiable = False
    no_gradient_bottoms = (0, 1)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """A scalar."""
        scores, labels = shapes[0], shapes[1]
        if len(scores) != 3 or len(labels) < 2 or scores[0] != labels[0]:
            self.fail(
                f"bottoms have shapes {tuple(scores)} and {tuple(labels)}, expected (sequences, "
                "time, classes) and (sequences, symbols)."
            )
        return [()]

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Count the sequences without a mistake."""
        blank = int(self.p.blank_label)
        right = 0
        for path, row in zip(x.argmax(2), label.reshape(len(label), -1).long(), strict=True):
            right += int(torch.equal(collapsed(path, blank), row[row != blank]))
        return x.new_tensor(right / len(x))

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Not possible."""
        self.refuse(f"compares sequences; export only up to '{self.spec.bottoms[0]}'.")
