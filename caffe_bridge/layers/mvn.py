"""MVN: subtract the mean of an image and divide by its deviation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


class _Normalise(torch.autograd.Function):
    """``(x - mean) / (deviation + eps)`` over some axes, with Caffe's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
        """Normalise."""
        y = x - x.mean(axes, keepdim=True)
        deviation = (y * y).mean(axes, keepdim=True).sqrt_().add_(eps)
        y.div_(deviation)
        ctx.save_for_backward(y, deviation)
        ctx.axes = axes
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """``dx = (dy - mean(dy) - y mean(dy y)) / (deviation + eps)``."""
        y, deviation = ctx.saved_tensors
        share = (grads[0] * y).mean(ctx.axes, keepdim=True)
        centred = grads[0] - grads[0].mean(ctx.axes, keepdim=True)
        return (centred - y * share) / deviation, None, None


@register("MVN")
class MVN(Layer):
    """Mean-variance normalisation: ``y = (x - mean) / (sqrt(var) + eps)`` per channel or image.

    Bottoms:
        x: (N, C, H, W), or fewer axes, which count as missing trailing ones.
    Tops:
        y: (N, C, H, W), always four axes.
    Parameters:
        normalize_variance (true; false only subtracts the mean), across_channels (false: over
        H and W; true: over C, H and W), eps (1e-9, outside the root).
    Gradient:
        Caffe's formula, which takes eps for 0 in one term.
    ONNX:
        ReduceMean, Sub, Mul, Sqrt, Add, Div; InstanceNormalization has eps inside the root.
    Caffe source:
        mvn_layer.cpp
    Differences:
        none.
    """

    param_field = "mvn_param"

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Four axes."""
        if not 1 <= len(shapes[0]) <= 4:
            self.fail(f"takes a bottom with 1 to 4 axes, found shape {tuple(shapes[0])}.")
        return [(*shapes[0], *[1] * (4 - len(shapes[0])))]

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes that are averaged over."""
        return (1, 2, 3) if self.p.across_channels else (2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        image = x.reshape(*x.shape, *[1] * (4 - x.ndim))
        if not self.p.normalize_variance:
            return image - image.mean(self.axes, keepdim=True)
        made: Tensor = _Normalise.apply(image, self.axes, self.p.eps)
        return made

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """The formula, node by node."""
        source, axes = bottoms[0], list(self.axes)
        rank = len(e.shape(source))
        if rank < 4:
            missing = e.constant(np.arange(rank, 4, dtype=np.int64), "missing")
            (source,) = e.op("Unsqueeze", [source, missing])
        mean = e.reduce("ReduceMean", source, axes)
        if not self.p.normalize_variance:
            e.op("Sub", [source, mean], tops)
            return
        (centred,) = e.op("Sub", [source, mean])
        (square,) = e.op("Mul", [centred, centred])
        (deviation,) = e.op("Sqrt", [e.reduce("ReduceMean", square, axes)])
        eps = e.constant(np.array(self.p.eps, np.float32), "eps")
        (deviation,) = e.op("Add", [deviation, eps])
        e.op("Div", [centred, deviation], tops)
