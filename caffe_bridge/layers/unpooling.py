"""Unpooling and MaxUnpool: enlarge an image to what a pooling had before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, between, exactly
from caffe_bridge.layers.pool_window import Pair, emit_pad
from caffe_bridge.layers.registry import register
from caffe_bridge.layers.upsample import check_mask, emit_unpool, unpool


@register("Unpooling", "UnPooling")
class Unpooling(Layer):
    """Enlarge: every value goes to one place of its window (MAX) or in equal parts to all (AVE).

    MAX puts the value where the mask says, without mask in the window's first corner; other
    places are 0. AVE adds ``x / window size`` to each place of the window.

    Bottoms:
        x: (N, C, h, w).
        mask (optional, MAX only): the same shape, ``row * W + column``, -1 for nowhere.
    Tops:
        y: (N, C, H, W), ``H = max((h - 1) stride + kernel, h stride + 1)``, or as stated.
    Parameters:
        unpool (MAX), kernel_size or kernel_h and kernel_w, stride (1) or stride_h and stride_w,
        unpool_size, or unpool_h and unpool_w (the size of the top); pad must be 0.
    Gradient:
        MAX: that of each value's place. AVE: the mean over the window. None for the mask.
    ONNX:
        ScatterElements, Pad and slices of zeros; ConvTranspose (AVE).
    Caffe source:
        unpooling_layer.cpp of the DeconvNet fork
    Differences:
        AVE starts from zeros, where that fork's CPU code adds to what was in the top; a mask of
        -1 puts the value nowhere.
    """

    param_field = "unpooling_param"
    bottoms = between(1, 2)
    no_gradient_bottoms = (1,)

    def configure(self) -> None:
        """Check which parameters are given together."""
        p = self.p
        if p.has("kernel_size") == (p.has("kernel_h") and p.has("kernel_w")):
            self.fail("needs either kernel_size or both kernel_h and kernel_w.")
        self.kernel = self._pair("kernel_size", "kernel")
        self.stride = self._pair("stride", "stride")
        self.stated = self._pair("unpool_size", "unpool")
        if min(*self.kernel, *self.stride) < 1:
            self.fail(f"kernel {self.kernel} and stride {self.stride} must be positive.")
        if any(self._pair("pad", "pad")):
            self.fail(f"pad is {self._pair('pad', 'pad')}; only 0 is defined.")
        if p.unpool == "STOCHASTIC":
            self.fail("STOCHASTIC unpooling is not defined; use MAX or AVE.")
        if len(self.spec.bottoms) > 1 and p.unpool != "MAX":
            self.fail(f"only MAX takes a mask, unpool is {p.unpool}; name one bottom.")

    def _pair(self, one: str, short: str) -> Pair:
        split = self.p.has(f"{short}_h"), self.p.has(f"{short}_w")
        if any(split) and (self.p.has(one) or not all(split)):
            self.fail(f"needs either {one} or both {short}_h and {short}_w.")
        if any(split):
            return int(getattr(self.p, f"{short}_h")), int(getattr(self.p, f"{short}_w"))
        return int(getattr(self.p, one)), int(getattr(self.p, one))

    def _size(self, spatial: Shape) -> Pair:
        if all(self.stated):
            return self.stated
        high, wide = (
            max((n - 1) * s + k, n * s + 1)
            for n, s, k in zip(spatial, self.stride, self.kernel, strict=True)
        )
        return high, wide

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The enlarged image."""
        check_mask(self, shapes)
        return [(*shapes[0][:2], *self._size(tuple(shapes[0][2:])))]

    def _corners(self, spatial: Shape, size: Pair) -> np.ndarray:
        """(h, w) places of the windows' first corners, kept inside the image."""
        rows = np.minimum(np.arange(spatial[0]) * self.stride[0], size[0] - 1)
        columns = np.minimum(np.arange(spatial[1]) * self.stride[1], size[1] - 1)
        return np.asarray(rows[:, None] * size[1] + columns)

    def _shares(self, spatial: Shape, size: Pair) -> np.ndarray:
        """(h, w) one over the number of places of each window inside the image."""
        sizes = [
            np.minimum(np.arange(n) * s + k, most) - np.minimum(np.arange(n) * s, most)
            for n, s, k, most in zip(spatial, self.stride, self.kernel, size, strict=True)
        ]
        area = sizes[0][:, None] * sizes[1]
        return np.asarray(np.where(area > 0, 1 / np.maximum(area, 1), 0.0))

    def _borders(self, spatial: Shape, size: Pair) -> tuple[int, int]:
        """Rows and columns that the windows leave at the end; negative when they hang over."""
        rows, columns = (
            most - ((n - 1) * s + k)
            for n, s, k, most in zip(spatial, self.stride, self.kernel, size, strict=True)
        )
        return rows, columns

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Unpool."""
        spatial = tuple(x.shape[2:])
        size = self._size(spatial)
        if self.p.unpool == "AVE":
            shares = torch.from_numpy(self._shares(spatial, size)).to(x)
            ones = x.new_ones(x.shape[1], 1, *self.kernel)
            y = functional.conv_transpose2d(x * shares, ones, stride=self.stride, groups=x.shape[1])
            rows, columns = self._borders(spatial, size)
            return functional.pad(y, (0, columns, 0, rows))
        if mask is None:
            mask = torch.from_numpy(self._corners(spatial, size)).to(x.device).expand(x.shape)
        return unpool(self, x, mask, size)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """ScatterElements by the mask, or ConvTranspose."""
        shape = e.shape(bottoms[0])
        spatial = tuple(shape[2:])
        size = self._size(spatial)
        if len(bottoms) > 1:
            emit_unpool(e, bottoms, shape, size, tops[0])
            return
        corner = np.ones(self.kernel, np.float32)
        source = bottoms[0]
        if self.p.unpool == "AVE":
            shares = e.constant(self._shares(spatial, size).astype(np.float32), "shares")
            (source,) = e.op("Mul", [source, shares])
        else:
            if any(k < s for k, s in zip(size, self._last(spatial), strict=True)):
                self.refuse(f"several windows begin on the border of the stated size {size}.")
            corner = np.zeros(self.kernel, np.float32)
            corner[0, 0] = 1
        weight = e.constant(np.broadcast_to(corner, (shape[1], 1, *self.kernel)).copy(), "window")
        rows, columns = self._borders(spatial, size)
        (spread,) = e.op(
            "ConvTranspose", [source, weight], strides=list(self.stride), group=shape[1],
            kernel_shape=list(self.kernel), pads=[0, 0, max(-rows, 0), max(-columns, 0)],
        )  # fmt: skip
        padded = emit_pad(e, spread, (0, 0), (max(rows, 0), max(columns, 0)), 0.0)
        e.op("Identity", [padded], tops)

    def _last(self, spatial: Shape) -> Pair:
        """One more than the last window's first row and column."""
        return (spatial[0] - 1) * self.stride[0] + 1, (spatial[1] - 1) * self.stride[1] + 1


@register("MaxUnpool", "MaxUnpooling")
class MaxUnpool(Unpooling):
    """Put each value where the mask of a max pooling says; 0 elsewhere.

    Bottoms:
        x: (N, C, h, w).
        mask: the same shape, ``row * W + column``, -1 for nowhere.
    Tops:
        y: (N, C, H, W), ``H = (h - 1) stride + kernel - 2 pad``, or as stated.
    Parameters:
        kernel_size or kernel_h and kernel_w, stride (1) or stride_h and stride_w, pad (0) or
        pad_h and pad_w, unpool_size or unpool_h and unpool_w (the size of the top).
    Gradient:
        that of each value's place; none for the mask.
    ONNX:
        ScatterElements.
    Caffe source:
        none is followed: forks agree on the values (as maxunpool_layer.cpp of one of them), the
        size is the inverse of a pooling's as OpenCV's layer of this name has it.
    Differences:
        the parameters are those of Unpooling, whatever a fork called them.
    """

    bottoms = exactly(2)

    def configure(self) -> None:
        """Check which parameters are given together."""
        self.kernel = self._pair("kernel_size", "kernel")
        self.stride = self._pair("stride", "stride")
        self.pad = self._pair("pad", "pad")
        self.stated = self._pair("unpool_size", "unpool")
        if not all(self.stated) and min(*self.kernel, *self.stride) < 1:
            self.fail("needs kernel_size and stride of the pooling, or unpool_size.")
        if self.p.unpool != "MAX":
            self.fail(f"unpool is {self.p.unpool}; only MAX is defined, or use Unpooling.")

    def _size(self, spatial: Shape) -> Pair:
        if all(self.stated):
            return self.stated
        high, wide = (
            (n - 1) * s + k - 2 * p
            for n, s, k, p in zip(spatial, self.stride, self.kernel, self.pad, strict=True)
        )
        return high, wide
