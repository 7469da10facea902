"""SmoothL1Loss: quadratic near the target, linear far from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.graph import LayerSpec, Shape
from caffe_bridge.layers.base import Emitter, Layer, between
from caffe_bridge.layers.loss import Loss, check_same, emit_smooth_l1
from caffe_bridge.layers.registry import register
from caffe_bridge.layers.smooth_l1_loss_ohem import SmoothL1LossOHEM


@register("SmoothL1Loss")
class SmoothL1Loss(Loss):
    """``sum w_out f(w_in (a - b)) / N``.

    ``f(d) = (sigma d)^2 / 2`` where ``|d| < 1 / sigma^2``, else ``|d| - 1 / (2 sigma^2)``.

    Bottoms:
        a: (N, ...); b: as many values; w_in (optional): factors before f, as many values;
        w_out (optional): factors behind f, as many values.
    Tops:
        loss: ().
    Parameters:
        sigma (1). With a second top or loss_param.normalization it is R-FCN's layer, see
        SmoothL1LossOHEM.
    Gradient:
        for a and its negative for b; none for the weights.
    ONNX:
        Abs, Min, Mul and sums.
    Caffe source:
        smooth_L1_loss_layer.cpp of Fast R-CNN, smooth_l1_loss_layer.cpp of SSD
    Differences:
        none.
    """

    param_field = "smooth_l1_loss_param"
    bottoms = between(2, 4)
    no_gradient_bottoms = (2, 3)

    @classmethod
    def resolve(cls, spec: LayerSpec) -> type[Layer]:
        """R-FCN's layer of this name where its top or its parameter is used."""
        p = spec.record.loss_param
        rfcn = len(spec.tops) > 1 or p.has("normalization") or p.has("normalize")
        return SmoothL1LossOHEM if rfcn and cls is SmoothL1Loss else cls

    def configure(self) -> None:
        """Check sigma."""
        self.knee = 1 / float(self.p.sigma) ** 2 if self.p.sigma else math.inf
        if not self.p.sigma > 0:
            self.fail(f"sigma is {self.p.sigma:g}; give a positive number.")

    def check_bottoms(self, shapes: Sequence[Shape]) -> None:
        """All bottoms hold equally many values in equally many rows."""
        for other in shapes[1:]:
            check_same(self, [shapes[0], other])

    def forward(self, a: Tensor, b: Tensor, *weights: Tensor) -> Tensor:
        """The mean over the rows of their sums."""
        gap = a - b.reshape(a.shape)
        if weights:
            gap = gap * weights[0].detach().reshape(a.shape)
        size = gap.abs()
        value = torch.where(size < self.knee, gap.square() / (2 * self.knee), size - self.knee / 2)
        if len(weights) > 1:
            value = value * weights[1].detach().reshape(a.shape)
        return value.sum() / a.shape[0]

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """With m = min(|d|, knee): f = m^2 / (2 knee) + |d| - m."""
        shape = e.shape(bottoms[0])
        value, weights = emit_smooth_l1(e, bottoms, self.knee)
        if len(weights) > 1:
            (value,) = e.op("Mul", [value, weights[1]])
        if len(shape) > 1:
            value = e.reduce("ReduceSum", value, list(range(1, len(shape))), keepdims=False)
        e.reduce("ReduceMean", value, [0], tops[0], keepdims=False)
