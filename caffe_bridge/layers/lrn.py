"""LRN: local response normalisation, across channels or within one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.pool_window import PoolWindow, average_pool, emit_average
from caffe_bridge.layers.registry import register

#: Above this many channels the band matrix of the ONNX form costs more than the operator LRN.
BAND_CHANNELS = 512


def channel_sums(x: Tensor, reach: int) -> Tensor:
    """Sum over channels c - reach .. c + reach of (N, C, ...), in a new tensor.

    Shifted additions in place: several times faster than pooling or a 1x1 convolution.
    """
    total = x.clone()
    for shift in range(1, min(reach, x.shape[1] - 1) + 1):
        total[:, shift:] += x[:, :-shift]
        total[:, :-shift] += x[:, shift:]
    return total


def negative_power(scale: Tensor, beta: float) -> Tensor:
    """``scale ** -beta`` of positive numbers; the usual 0.75 by square roots."""
    if beta == 0.75:
        root = scale.rsqrt()
        return root.mul_(root.sqrt())
    return scale.pow(-beta)


class _AcrossChannels(torch.autograd.Function):
    """``y = x s^-beta`` with ``s = k + alpha / size * sum x^2``, and Caffe's gradient formula."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
        """Normalise."""
        scale = channel_sums(x * x, size // 2).mul_(alpha / size).add_(k)
        power = negative_power(scale, beta)
        ctx.save_for_backward(x, scale)
        ctx.settings = (size, alpha, beta)
        return power.mul_(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """``dx = dy s^-beta - 2 alpha beta / size * x * sum(dy y / s)``."""
        x, scale = ctx.saved_tensors
        size, alpha, beta = ctx.settings
        direct = negative_power(scale, beta).mul_(grads[0])
        ratio = (direct * x).div_(scale)
        spread = channel_sums(ratio, size // 2).mul_(x).mul_(-2.0 * alpha * beta / size)
        return direct.add_(spread), None, None, None, None


@register("LRN")
class LRN(Layer):
    """Local response normalisation: ``y = x / (k + alpha / n * sum x^2) ** beta``.

    ACROSS_CHANNELS: the sum is over the local_size channels around (zero beyond the ends),
    n = local_size. WITHIN_CHANNEL: over the local_size x local_size pixels around (zero padded),
    n = local_size ** 2, and k is ignored: it is 1.

    Bottoms:
        x: (N, C, H, W); ACROSS_CHANNELS takes any rank from 2.
    Tops:
        y: the same shape.
    Parameters:
        local_size (5, odd), alpha (1), beta (0.75), k (1), norm_region (ACROSS_CHANNELS).
    ONNX:
        ACROSS_CHANNELS: squares, a 1x1 Conv with a band matrix (alpha / n in the band, k as
        bias), the power, Div; for beta 0.75 the power is ``sqrt(s) * sqrt(sqrt(s))``. It is
        several times faster than the operator LRN, which is used above 512 channels.
        WITHIN_CHANNEL: Pad, AveragePool and the power.
    Caffe source:
        lrn_layer.cpp
    Differences:
        Caffe takes rank 4 only.
    """

    param_field = "lrn_param"

    def configure(self) -> None:
        """Check local_size."""
        if self.p.local_size % 2 == 0:
            self.fail(f"local_size {self.p.local_size} must be odd, so that a window has a centre.")

    @property
    def within(self) -> bool:
        """Whether the window lies in the image plane."""
        return bool(self.p.norm_region == "WITHIN_CHANNEL")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shape of the bottom."""
        needed = "4 axes" if self.within else "at least 2 axes"
        if (self.within and len(shapes[0]) != 4) or len(shapes[0]) < 2:
            self.fail(
                f"{self.p.norm_region} takes a bottom with {needed}, found shape "
                f"{tuple(shapes[0])}."
            )
        return [tuple(shapes[0])]

    def window(self) -> PoolWindow:
        """The square of WITHIN_CHANNEL."""
        size = int(self.p.local_size)
        return PoolWindow((size, size), (1, 1), (size // 2, size // 2))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        p = self.p
        if self.within:
            return x * (average_pool(x * x, self.window()) * p.alpha + 1).pow(-p.beta)
        made: Tensor = _AcrossChannels.apply(x, int(p.local_size), p.alpha, p.beta, p.k)
        return made

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Squares, their sums, the power and a division; see the class."""
        p, shape = self.p, e.shape(bottoms[0])
        if not self.within and shape[1] > BAND_CHANNELS:
            e.op("LRN", bottoms, tops, size=int(p.local_size), alpha=p.alpha, beta=p.beta, bias=p.k)
            return
        (squares,) = e.op("Mul", [bottoms[0], bottoms[0]])
        if self.within:
            mean = emit_average(e, squares, shape, self.window())
            (mean,) = e.op("Mul", [mean, e.constant(np.array(p.alpha, np.float32), "alpha")])
            (scale,) = e.op("Add", [mean, e.constant(np.array(1, np.float32), "one")])
        else:
            scale = self._emit_band(e, squares, shape)
        e.op("Div", [bottoms[0], self._emit_power(e, scale)], tops)

    def _emit_band(self, e: Emitter, squares: str, shape: Shape) -> str:
        """``k + alpha / n * sum`` over neighbouring channels as a 1x1 convolution."""
        place = np.arange(shape[1])
        near = np.abs(place[:, None] - place[None, :]) <= self.p.local_size // 2
        band = (near * (self.p.alpha / self.p.local_size)).astype(np.float32)
        weight = e.constant(band.reshape(*band.shape, *[1] * max(1, len(shape) - 2)), "band")
        bias = e.constant(np.full(shape[1], self.p.k, np.float32), "k")
        if len(shape) > 2:
            return e.op("Conv", [squares, weight, bias], kernel_shape=[1] * (len(shape) - 2))[0]
        axis = e.constant(np.array([2], np.int64), "axis")
        (column,) = e.op("Unsqueeze", [squares, axis])
        (column,) = e.op("Conv", [column, weight, bias], kernel_shape=[1])
        return e.op("Squeeze", [column, axis])[0]

    def _emit_power(self, e: Emitter, scale: str) -> str:
        if self.p.beta != 0.75:
            return e.op("Pow", [scale, e.constant(np.array(self.p.beta, np.float32), "beta")])[0]
        (root,) = e.op("Sqrt", [scale])
        (fourth,) = e.op("Sqrt", [root])
        return e.op("Mul", [root, fourth])[0]
