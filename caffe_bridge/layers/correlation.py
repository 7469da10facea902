"""Correlation: compare the patches of two images at many displacements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.pool_window import emit_pad
from caffe_bridge.layers.registry import register


@register("Correlation")
class Correlation(Layer):
    """Mean product (or absolute difference) of patches of a and displaced patches of b.

    ``y[k, j, i] = 1 / (K^2 C) sum a[c, j s1 + D + p, i s1 + D + q] * b[c, .. + dy, .. + dx]`` over
    the channels c and the K x K patch (p, q), in images padded by zeros; channel k runs over the
    displacements (dy, dx), multiples of s2 up to D, dx fastest.

    Bottoms:
        a, b: (N, C, H, W) each.
    Tops:
        y: (N, (2 floor(D / s2) + 1)^2, h, w), ``h = ceil((H + 2 pad - 2 D - K + 1) / s1)``.
    Parameters:
        kernel_size (K): odd, required; max_displacement (D): required; pad (0), stride_1 (1),
        stride_2 (1), correlation_type (MULTIPLY; SUBTRACT: absolute differences).
    Gradient:
        of SUBTRACT at equal values: 0.
    ONNX:
        for each displacement Slice, Mul (Sub and Abs), ReduceMean; Concat and AveragePool.
    Caffe source:
        correlation_layer.cpp, correlation_layer.cu of FlowNet
    Differences:
        runs on the CPU too; do_abs and single_direction are refused.
    """

    param_field = "correlation_param"
    bottoms = exactly(2)

    def configure(self) -> None:
        """Check the parameters."""
        p = self.p
        self.kernel, self.reach, self.pad = p.kernel_size, p.max_displacement, p.pad
        if not p.has("kernel_size") or self.kernel % 2 == 0:
            self.fail(f"kernel_size is {p.kernel_size}; give an odd number.")
        if not p.has("max_displacement"):
            self.fail("gives no max_displacement; state how far to look.")
        if min(p.stride_1, p.stride_2) < 1:
            self.fail(f"stride_1 {p.stride_1} and stride_2 {p.stride_2} must be positive.")
        if p.do_abs or p.single_direction:
            self.fail("do_abs and single_direction are not supported; leave them out.")
        steps = self.reach // p.stride_2
        line = [i * int(p.stride_2) for i in range(-steps, steps + 1)]
        self.displacements = [(dy, dx) for dy in line for dx in line]

    def _span(self, shape: Shape) -> tuple[int, int]:
        """Rows and columns of the padded images at which patches of a may have their corner."""
        border = 2 * self.reach + self.kernel - 1
        rows, columns = (n + 2 * self.pad - border for n in shape[2:])
        return rows, columns

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """One channel for every displacement."""
        first, second = tuple(shapes[0]), tuple(shapes[1])
        if len(first) != 4 or first != second:
            self.fail(f"takes two bottoms of one shape (N, C, H, W), found {first} and {second}.")
        span = self._span(first)
        if min(span) < 1:
            self.fail(
                f"max_displacement {self.reach} and kernel_size {self.kernel} do not fit into "
                f"bottom shape {first} with pad {self.pad}."
            )
        stride = int(self.p.stride_1)
        return [(first[0], len(self.displacements), *(-(-n // stride) for n in span))]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare at every displacement, then average over the patches."""
        rows, columns = (n + self.kernel - 1 for n in self._span(tuple(a.shape)))
        a, b = (functional.pad(v, [self.pad] * 4) for v in (a, b))
        low = self.reach
        fixed = a[:, :, low : low + rows, low : low + columns]
        found = []
        for dy, dx in self.displacements:
            moved = b[:, :, low + dy : low + dy + rows, low + dx : low + dx + columns]
            multiply = self.p.correlation_type == "MULTIPLY"
            found.append((fixed * moved if multiply else (fixed - moved).abs()).mean(1))
        return functional.avg_pool2d(torch.stack(found, 1), self.kernel, int(self.p.stride_1))

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """The same, node by node."""
        rows, columns = (n + self.kernel - 1 for n in self._span(e.shape(bottoms[0])))
        sides = (int(self.pad), int(self.pad))
        a, b = (emit_pad(e, bottom, sides, sides, 0.0) for bottom in bottoms)
        axes = e.constant(np.array([2, 3], np.int64), "axes")

        def part(source: str, top: int, left: int) -> str:
            starts = e.constant(np.array([top, left], np.int64), f"from.{top}.{left}")
            ends = np.array([top + rows, left + columns], np.int64)
            ends_name = e.constant(ends, f"to.{top}.{left}")
            return e.op("Slice", [source, starts, ends_name, axes])[0]

        low = int(self.reach)
        fixed = part(a, low, low)
        found = []
        for dy, dx in self.displacements:
            moved = part(b, low + dy, low + dx)
            if self.p.correlation_type == "MULTIPLY":
                (compared,) = e.op("Mul", [fixed, moved])
            else:
                (compared,) = e.op("Abs", e.op("Sub", [fixed, moved]))
            found.append(e.reduce("ReduceMean", compared, [1]))
        (joined,) = e.op("Concat", found, axis=1)
        e.op(
            "AveragePool", [joined], tops, kernel_shape=[int(self.kernel)] * 2,
            strides=[int(self.p.stride_1)] * 2,
        )  # fmt: skip

    def macs(self, shapes: Sequence[Shape]) -> int:
        """K^2 C products for every value."""
        n, k, h, w = self.infer(shapes)[0]
        return n * k * h * w * int(self.kernel) ** 2 * shapes[0][1]
