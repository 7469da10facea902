"""LRN: local response normalisation, across channels or within one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.pool_window import (
    PoolWindow,
    average_pool,
    emit_average,
    emit_padded_average,
)
from caffe_bridge.layers.registry import register

#: Above this many channels the band matrix of the ONNX form costs more than the operator LRN.
BAND_CHANNELS = 512
#: Channels that one group of the form ``windows`` makes.
BLOCK = 32
#: Fewest channels at which the form ``windows`` is faster than ``band``.
WINDOWS_FROM = 96
#: The widest window of cuDNN's kernel.
_CUDNN_WINDOW = 16


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
        ACROSS_CHANNELS, one of four forms.
        ``band`` (portable): squares, a 1x1 Conv with a band matrix (alpha / n in the band, k as
        bias), the power, Div; for beta 0.75 the power is ``sqrt(s) * sqrt(sqrt(s))``. It is
        several times faster than the operator on a processor.
        ``windows`` (ort-cpu from WINDOWS_FROM channels on): the same with the band cut into blocks
        of 32 channels and what they reach, which Gather lays side by side for a grouped Conv; 36
        products a value instead of C.
        ``average``: AveragePool over the channels instead of the Conv; faster on small maps only.
        ``operator`` (ort-cuda, where it is one cuDNN kernel; portable above 512 channels): LRN.
        WITHIN_CHANNEL: ``pad`` (portable), Pad, AveragePool and the power; ``pads`` (the other
        targets), the padding as an attribute of AveragePool.
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

    def forms(self, shapes: Sequence[Shape]) -> tuple[str, ...]:
        """See the class; onnxruntime's operator and the planes need rank 4."""
        if self.within:
            return ("pad", "pads")
        if len(shapes[0]) != 4:
            return ("band",)
        few = shapes[0][1] <= BAND_CHANNELS
        return (*(("band", "operator") if few else ("operator", "band")), "windows", "average")

    def form_for(self, target: str, shapes: Sequence[Shape]) -> str:
        """The form of a target."""
        known = self.forms(shapes)
        if self.within:
            return "pad" if target == "portable" else "pads"
        if target == "ort-cuda" and len(shapes[0]) == 4 and self.p.local_size <= _CUDNN_WINDOW:
            return "operator"
        if target == "ort-cpu" and len(shapes[0]) == 4:
            return "windows" if shapes[0][1] >= WINDOWS_FROM else "band"
        return known[0]

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Squares, their sums, the power and a division; see the class."""
        p, shape = self.p, e.shape(bottoms[0])
        form = e.form or self.forms([shape])[0]
        if form == "operator":
            e.op("LRN", bottoms, tops, size=int(p.local_size), alpha=p.alpha, beta=p.beta, bias=p.k)
            return
        source = bottoms[0]
        if form in ("windows", "average"):
            flat_shape = [0, 0, -1] if form == "windows" else [0, 1, shape[1], -1]
            flat_name = e.constant(np.array(flat_shape, np.int64), "flat")
            (source,) = e.op("Reshape", [source, flat_name])
        (squares,) = e.op("Mul", [source, source])
        if self.within:
            scale = self._emit_mean(e, self._emit_plane(e, squares, shape, form), 1.0)
        elif form == "windows":
            scale = self._emit_windows(e, squares, shape)
        elif form == "average":
            reach = int(p.local_size) // 2
            (mean,) = e.op(
                "AveragePool", [squares], kernel_shape=[int(p.local_size), 1],
                pads=[reach, 0, reach, 0], count_include_pad=1,
            )  # fmt: skip
            scale = self._emit_mean(e, mean, p.k)
        else:
            scale = self._emit_band(e, squares, shape)
        flat = source != bottoms[0]
        (y,) = self._emit_quotient(e, source, scale, 1 if flat else tops)
        if flat:
            e.reshape(y, shape, tops[0])

    def _emit_plane(self, e: Emitter, squares: str, shape: Shape, form: str) -> str:
        """The mean over the square around each pixel."""
        if form == "pad":
            return emit_average(e, squares, shape, self.window())
        return emit_padded_average(e, squares, self.window())

    def _emit_mean(self, e: Emitter, mean: str, offset: float) -> str:
        """``offset + alpha * mean``."""
        (mean,) = e.op("Mul", [mean, e.constant(np.array(self.p.alpha, np.float32), "alpha")])
        return e.op("Add", [mean, e.constant(np.array(offset, np.float32), "k")])[0]

    def _band(self, channels: int) -> np.ndarray:
        """(channels, channels): alpha / n where two channels are neighbours."""
        place = np.arange(channels)
        near = np.abs(place[:, None] - place[None, :]) <= self.p.local_size // 2
        return (near * (self.p.alpha / self.p.local_size)).astype(np.float32)

    def _emit_band(self, e: Emitter, squares: str, shape: Shape) -> str:
        """``k + alpha / n * sum`` over neighbouring channels as a 1x1 convolution."""
        band = self._band(shape[1])
        weight = e.constant(band.reshape(*band.shape, *[1] * max(1, len(shape) - 2)), "band")
        bias = e.constant(np.full(shape[1], self.p.k, np.float32), "k")
        if len(shape) > 2:
            return e.op("Conv", [squares, weight, bias], kernel_shape=[1] * (len(shape) - 2))[0]
        axis = e.constant(np.array([2], np.int64), "axis")
        (column,) = e.op("Unsqueeze", [squares, axis])
        (column,) = e.op("Conv", [column, weight, bias], kernel_shape=[1])
        return e.op("Squeeze", [column, axis])[0]

    def _emit_windows(self, e: Emitter, squares: str, shape: Shape) -> str:
        """The same of (N, C, pixels), in blocks of channels that overlap in what they read.

        C is filled up to whole blocks with copies of the last channel, cut off in the end; weight
        zero keeps whatever is no neighbour out of a sum.
        """
        channels, reach = shape[1], int(self.p.local_size) // 2
        block = min(BLOCK, channels)
        groups = -(-channels // block)
        starts = np.arange(groups)[:, None] * block
        read = starts - reach + np.arange(block + 2 * reach)
        made = starts + np.arange(block)
        near = np.abs(made[:, :, None] - read[:, None, :]) <= reach
        near &= ((read >= 0) & (read < channels))[:, None, :]
        band = (near * (self.p.alpha / self.p.local_size)).astype(np.float32)
        index = e.constant(read.clip(0, channels - 1).reshape(-1).astype(np.int64), "channels")
        (wide,) = e.op("Gather", [squares, index], axis=1)
        weight = e.constant(band.reshape(groups * block, -1, 1), "band")
        bias = e.constant(np.full(groups * block, self.p.k, np.float32), "k")
        (scale,) = e.op("Conv", [wide, weight, bias], kernel_shape=[1], group=groups)
        if groups * block == channels:
            return scale
        ends = [e.constant(np.array([n], np.int64), h) for n, h in
                ((0, "first"), (channels, "last"), (1, "axis"))]  # fmt: skip
        return e.op("Slice", [scale, *ends])[0]

    def _emit_quotient(
        self, e: Emitter, x: str, scale: str, outputs: int | Sequence[str]
    ) -> list[str]:
        """``x / scale ** beta``: square roots, or logarithm and exponential on a processor."""
        beta = self.p.beta
        fast = e.form in ("windows", "average", "pads")
        if beta == 0.75 or (fast and beta in (0.25, 0.5)):
            (power,) = e.op("Sqrt", [scale])
            if beta != 0.5:
                (fourth,) = e.op("Sqrt", [power])
                power = fourth if beta == 0.25 else e.op("Mul", [power, fourth])[0]
            return e.op("Div", [x, power], outputs)
        if fast and beta == 1:
            return e.op("Div", [x, scale], outputs)
        if fast:
            (exponent,) = e.op("Log", [scale])
            factor = e.constant(np.array(-beta, np.float32), "beta")
            (exponent,) = e.op("Mul", [exponent, factor])
            (inverse,) = e.op("Exp", [exponent])
            return e.op("Mul", [x, inverse], outputs)
        (power,) = e.op("Pow", [scale, e.constant(np.array(beta, np.float32), "beta")])
        return e.op("Div", [x, power], outputs)
