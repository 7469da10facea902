"""Pooling windows as Caffe lays them: sizes, divisors, the torch and the ONNX form.

Output size per axis: ``ceil((size + 2 pad - kernel) / stride) + 1`` (floor with ``floor``); only
when some axis is padded, a last window that would start beyond ``size + pad`` is dropped. Without
padding and with stride > kernel the last window may therefore be empty.
Caffe source: pooling_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter

#: Caffe's -FLT_MAX: what a window without any number gives.
LOWEST = float(np.finfo(np.float32).min)
Pair = tuple[int, int]


@dataclass(frozen=True)
class PoolWindow:
    """Kernel, stride and pad of a pooling over (height, width), and how sizes are rounded."""

    kernel: Pair
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    floor: bool = False

    def sizes(self, spatial: Shape) -> Pair:
        """Output height and width; below 1 when the kernel does not fit."""
        found = []
        for size, kernel, stride, pad in zip(
            spatial, self.kernel, self.stride, self.pad, strict=True
        ):
            # Caffe divides in single precision.
            steps = np.float32(size + 2 * pad - kernel) / np.float32(stride)
            out = int(np.floor(steps) if self.floor else np.ceil(steps)) + 1
            found.append(out - 1 if any(self.pad) and (out - 1) * stride >= size + pad else out)
        return (found[0], found[1])

    def overhang(self, spatial: Shape, before: Pair, after: Pair) -> Pair:
        """Pixels that the last windows need beyond ``before + size + after``, at least 0."""
        height, width = (
            max(0, (out - 1) * stride + kernel - (first + size + last))
            for out, stride, kernel, size, first, last in zip(
                self.sizes(spatial), self.stride, self.kernel, spatial, before, after, strict=True
            )
        )
        return height, width

    def divisors(self, spatial: Shape, include_pad: bool = True) -> np.ndarray:
        """What AVE divides each window's sum by, (out_h, out_w); not positive when it is empty.

        Padding counts, what hangs over beyond ``size + pad`` does not. Without ``include_pad``
        only pixels of the image count.
        """
        lengths = []
        for axis, out in enumerate(self.sizes(spatial)):
            start = np.arange(out) * self.stride[axis] - self.pad[axis]
            edge = spatial[axis] + (self.pad[axis] if include_pad else 0)
            end = np.minimum(start + self.kernel[axis], edge)
            lengths.append(end - (start if include_pad else np.maximum(start, 0)))
        return np.asarray(lengths[0][:, None] * lengths[1][None, :], np.float32)

    def torch_ceil_mode(self, spatial: Shape) -> bool | None:
        """The ceil_mode in which torch lays the same windows, or None when it cannot."""
        if any(2 * p > k for p, k in zip(self.pad, self.kernel, strict=True)):
            return None
        wanted = self.sizes(spatial)
        for ceil in (False, True):
            made = []
            for size, k, s, p in zip(spatial, self.kernel, self.stride, self.pad, strict=True):
                out = (size + 2 * p - k + (s - 1 if ceil else 0)) // s + 1
                made.append(out - 1 if ceil and (out - 1) * s >= size + p else out)
            if tuple(made) == wanted:
                return ceil
        return None

    def padded(self, x: Tensor, value: float) -> Tensor:
        """The image with explicit borders so that every window lies inside."""
        low, right = self.overhang(tuple(x.shape[2:]), self.pad, (0, 0))
        return functional.pad(x, (self.pad[1], right, self.pad[0], low), value=value)


def sum_windows(x: Tensor, window: PoolWindow) -> Tensor:
    """Sum of every window, (N, C, out_h, out_w); nothing outside the image counts."""
    return functional.avg_pool2d(
        window.padded(x, 0.0), window.kernel, window.stride, divisor_override=1
    )


def average_pool(x: Tensor, window: PoolWindow, include_pad: bool = True) -> Tensor:
    """AVE pooling of (N, C, H, W)."""
    spatial = tuple(x.shape[2:])
    if window.kernel == spatial and window.sizes(spatial) == (1, 1) and not any(window.pad):
        return x.mean((2, 3), keepdim=True)
    ceil = window.torch_ceil_mode(spatial)
    if ceil is not None:
        return functional.avg_pool2d(x, window.kernel, window.stride, window.pad, ceil, include_pad)
    divisors = torch.from_numpy(window.divisors(spatial, include_pad)).to(x)
    return sum_windows(x, window) / divisors


def max_pool(x: Tensor, window: PoolWindow, with_mask: bool = False) -> tuple[Tensor, Tensor]:
    """MAX pooling of (N, C, H, W): values and, if asked for, the mask (else empty).

    The first of equal maxima wins; NaN and what is not above -FLT_MAX never wins. The mask holds
    ``row * W + column`` of the winner as a number of x's type, -1 where nothing won.
    """
    ceil = window.torch_ceil_mode(tuple(x.shape[2:]))
    source = window.padded(x, LOWEST) if ceil is None else x
    pad = (0, 0) if ceil is None else window.pad

    def pool(image: Tensor) -> tuple[Tensor, Tensor]:
        return functional.max_pool2d_with_indices(
            image, window.kernel, window.stride, pad, ceil_mode=bool(ceil)
        )

    y, index = pool(source)
    eager = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if not (eager and (not y.numel() or bool(y.amin() > LOWEST))):
        y, index = pool(torch.where(source > LOWEST, source, LOWEST))
    if not with_mask:
        return y, x.new_empty(0)
    before, width = ((0, 0), x.shape[3]) if ceil is not None else (window.pad, source.shape[3])
    rows = torch.div(index, width, rounding_mode="floor") - before[0]
    place = rows * x.shape[3] + index % width - before[1]
    return y, torch.where(y > LOWEST, place, -1).to(x.dtype)


def stochastic_pool(x: Tensor, window: PoolWindow, draw: bool) -> Tensor:
    """STOCHASTIC pooling of activations that are not negative.

    Drawing, a window gives one of its values with a probability proportional to it; otherwise
    it gives ``sum(x^2) / sum(x)``, 0 where the sum is not positive.
    """
    if not draw:
        total = sum_windows(x, window)
        found = total > 0
        ratio = sum_windows(x * x, window) / torch.where(found, total, 1.0)
        return torch.where(found, ratio, 0.0)
    flat = window.padded(x, 0.0).flatten(0, 1).unsqueeze(1)
    columns = functional.unfold(flat, window.kernel, stride=window.stride)
    running = columns.detach().cumsum(1)
    threshold = torch.rand_like(running[:, :1]) * running[:, -1:]
    first = (running >= threshold).to(torch.uint8).argmax(1, keepdim=True)
    picked = columns.gather(1, first)
    return picked.reshape(*x.shape[:2], *window.sizes(tuple(x.shape[2:])))


def emit_pad(
    e: Emitter, source: str, before: Pair, after: Pair, value: float, hint: str = "border"
) -> str:
    """Pad the last two axes explicitly; returns the source when there is nothing to add."""
    if not any(before) and not any(after):
        return source
    pads = e.constant(np.array([0, 0, *before, 0, 0, *after], np.int64), "pads")
    return e.op(
        "Pad", [source, pads, e.constant(np.array(value, np.float32), hint)], mode="constant"
    )[0]


def emit_max(
    e: Emitter, source: str, shape: Shape, window: PoolWindow, tops: Sequence[str] = ("",)
) -> str:
    """MaxPool with explicit pads, preceded by Pad(-FLT_MAX) where a last window is empty.

    Args:
        e: the emitter.
        source: value of the given shape.
        shape: (N, C, H, W).
        window: the windows.
        tops: name of the result (a fresh one when empty) and, optionally, of the mask.
    """
    spatial = tuple(shape[2:])
    after = window.overhang(spatial, window.pad, (0, 0))
    before, size, explicit = window.pad, spatial, False
    if any(end >= k for end, k in zip(after, window.kernel, strict=True)):
        source = emit_pad(e, source, before, after, LOWEST)
        size = (spatial[0] + before[0] + after[0], spatial[1] + before[1] + after[1])
        explicit = True
    attributes: dict[str, Any] = {
        "kernel_shape": list(window.kernel),
        "strides": list(window.stride),
        "pads": [0, 0, 0, 0] if explicit else [*before, *after],
    }
    if len(tops) == 1:
        return e.op("MaxPool", [source], list(tops) if tops[0] else 1, **attributes)[0]
    (index,) = e.op("MaxPool", [source], [tops[0], f"{tops[1]}/index"], **attributes)[1:]
    (place,) = e.op("Mod", [index, e.constant(np.array(size[0] * size[1], np.int64), "plane")])
    if not explicit:
        e.op("Cast", [place], [tops[1]], to=1)
        return tops[0]
    wide = e.constant(np.array(size[1], np.int64), "wide")
    (row,) = e.op("Div", [place, wide])
    (column,) = e.op("Mod", [place, wide])
    (start,) = e.op("Mul", [row, e.constant(np.array(spatial[1], np.int64), "width")])
    (place,) = e.op("Add", [start, column])
    origin = e.constant(np.array(before[0] * spatial[1] + before[1], np.int64), "origin")
    (place,) = e.op("Sub", [place, origin])
    (found,) = e.op("Greater", [tops[0], e.constant(np.array(LOWEST, np.float32), "border")])
    (place,) = e.op("Where", [found, place, e.constant(np.array(-1, np.int64), "none")])
    e.op("Cast", [place], [tops[1]], to=1)
    return tops[0]


def emit_average(
    e: Emitter, source: str, shape: Shape, window: PoolWindow, top: str = "",
    include_pad: bool = True,
) -> str:  # fmt: skip
    """AveragePool whose padding is an explicit Pad(0), so that every runtime divides as Caffe.

    Where a last window is empty all borders are explicit and a constant (out_h, out_w) map turns
    the mean over the kernel into Caffe's quotient.
    """
    spatial = tuple(shape[2:])
    outputs: int | list[str] = [top] if top else 1
    attributes: dict[str, Any] = {
        "kernel_shape": list(window.kernel),
        "strides": list(window.stride),
    }
    counted = window.pad if include_pad else (0, 0)
    first = (0, 0) if include_pad else window.pad
    after = window.overhang(spatial, window.pad, counted)
    if all(end < k for end, k in zip(after, window.kernel, strict=True)):
        source = emit_pad(e, source, counted, counted, 0.0)
        return e.op("AveragePool", [source], outputs, pads=[*first, *after], **attributes)[0]
    after = window.overhang(spatial, window.pad, (0, 0))
    source = emit_pad(e, source, window.pad, after, 0.0)
    (mean,) = e.op("AveragePool", [source], **attributes)
    with np.errstate(divide="ignore"):
        area = np.float32(window.kernel[0] * window.kernel[1])
        factors = area / window.divisors(spatial, include_pad)
    return e.op("Mul", [mean, e.constant(factors, "factors")], outputs)[0]


def emit_padded_average(e: Emitter, source: str, window: PoolWindow, top: str = "") -> str:
    """AveragePool that pads itself with zeros that count; only where no window hangs over."""
    return e.op(
        "AveragePool", [source], [top] if top else 1, kernel_shape=list(window.kernel),
        strides=list(window.stride), pads=[*window.pad, *window.pad], count_include_pad=1,
    )[0]  # fmt: skip


def emit_stochastic(
    e: Emitter, source: str, shape: Shape, window: PoolWindow, top: str = ""
) -> str:
    """The TEST form ``sum(x^2) / sum(x)`` of STOCHASTIC as a quotient of two AveragePools."""
    after = window.overhang(tuple(shape[2:]), window.pad, (0, 0))
    source = emit_pad(e, source, window.pad, after, 0.0)
    attributes: dict[str, Any] = {
        "kernel_shape": list(window.kernel),
        "strides": list(window.stride),
    }
    (square,) = e.op("Mul", [source, source])
    (squares,) = e.op("AveragePool", [square], **attributes)
    (total,) = e.op("AveragePool", [source], **attributes)
    zero = e.constant(np.array(0, np.float32), "zero")
    (found,) = e.op("Greater", [total, zero])
    (quotient,) = e.op("Div", [squares, total])
    return e.op("Where", [found, quotient, zero], [top] if top else 1)[0]
