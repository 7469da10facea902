"""CtcLoss: connectionist temporal classification by warp-ctc."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.errors import DataError
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter
from caffe_bridge.layers.loss import Loss
from caffe_bridge.layers.registry import register


@register("CtcLoss")
class CtcLoss(Loss):
    """Mean over the sequences of ``-log p(label sequence | scores)``, over all alignments.

    Bottoms:
        x: (T, N, C) scores, before the softmax; only the first ``time_step`` of T count.
        label: (N, L) symbols; blanks are left out, whatever their place.
    Tops:
        loss: ().
    Parameters:
        alphabet_size: C, blank included; time_step; blank_label (0).
    Gradient:
        N times the derivative, as warp-ctc's gradients are not divided by N; none for the label.
    ONNX:
        not possible: it sums over all alignments with the label.
    Caffe source:
        ctc_loss_layer.cpp of xmfbit/warpctc-caffe
    Differences:
        a sequence too long for its time steps costs 0 there and here, and its gradient is 0 (there
        whatever the memory held).
    """

    param_field = "ctc_loss_param"

    def check_bottoms(self, shapes: Sequence[Shape]) -> None:
        """(T, N, alphabet_size) and (N, L)."""
        scores, labels = shapes[0], shapes[1]
        size, steps = int(self.p.alphabet_size), int(self.p.time_step)
        if size < 1 or steps < 1:
            self.fail("alphabet_size or time_step is missing; give both.")
        if len(scores) != 3 or scores[2] != size or scores[0] < steps:
            self.fail(
                f"bottom 0 has shape {tuple(scores)}, expected (time, sequences, {size}) with at "
                f"least {steps} steps of time."
            )
        if len(labels) < 2 or labels[0] != scores[1]:
            self.fail(
                f"bottom 1 has shape {tuple(labels)}, expected ({scores[1]}, symbols), a row for "
                "each sequence."
            )
        if not 0 <= self.p.blank_label < size:
            self.fail(f"blank_label {self.p.blank_label} is outside 0..{size - 1}.")

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The mean cost, with the gradient of the sum."""
        blank, size, steps = int(self.p.blank_label), x.shape[2], int(self.p.time_step)
        symbols = label.detach().reshape(len(label), -1).long()
        if bool(((symbols < 0) | (symbols >= size)).any()):
            raise DataError(
                f"{self.spec.label()}: a label is outside 0..{size - 1}; alphabet_size is {size}."
            )
        used = symbols != blank
        if not bool(used.any()):
            raise DataError(f"{self.spec.label()}: all labels are blank ({blank}); give some.")
        costs = torch.nn.functional.ctc_loss(
            x[:steps].log_softmax(2), symbols[used], torch.full((len(label),), steps),
            used.sum(1), blank, reduction="none", zero_infinity=True,
        )  # fmt: skip
        total = costs.sum()
        return total - total.detach() + total.detach() / len(label)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Not possible."""
        self.refuse(f"sums over all alignments; export only up to '{self.spec.bottoms[0]}'.")
