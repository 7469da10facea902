"""ColinearConvolution: a convolution that also sees the products of the pixels of its window."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer, exactly
from caffe_bridge.layers.registry import register


@register("ColinearConvolution")
class ColinearConvolution(Layer):
    """``y_m = v^T Q_m v + w_m v + b_m`` for the window v of every output pixel.

    Bottoms:
        x: (N, C, H, W).
    Tops:
        y: (N, num_output, h, w), ``h = floor((H + 2 pad - kernel_size) / stride) + 1``.
    Blobs:
        b: (1, 1, 1, num_output); ``bias_filler``.
        w: (num_output, C / group, k, k); ``linear_weight_filler``.
        Q: (1, num_output, C k k, C k k); ``quadratic_weight_filler``.
        A term that is switched off leaves (1, 1, 1, num_output) zeros without effect.
    Parameters:
        num_output, kernel_size, pad (0), stride (1), group (1): of the linear term;
        quadratic_term, linear_term, bias_term (true each); symmetric (false): Q's upper triangle
        stands for the lower one, too; mask: no effect, as there.
    ONNX:
        Conv that copies the windows, Conv with Q, Mul, ReduceSum; Conv for the other terms.
    Caffe source:
        colineconv_layer.cpp of pl8787/exp_caffe
    Differences:
        without quadratic and linear term the top is the bias alone (there, what was in memory).
    """

    param_field = "colinear_convolution_param"
    bottoms = exactly(1)

    def configure(self) -> None:
        """Check the sizes."""
        p = self.p
        self.size, self.stride, self.pad = int(p.kernel_size), int(p.stride), int(p.pad)
        self.count, self.group = int(p.num_output), int(p.group)
        if min(self.size, self.stride, self.count, self.group) < 1 or self.count % self.group:
            self.fail(
                f"num_output {self.count}, kernel_size {self.size}, stride {self.stride} and group "
                f"{self.group} must be positive, and group must divide num_output."
            )

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Sizes of a convolution."""
        x = tuple(shapes[0])
        if len(x) != 4 or x[1] % self.group:
            self.fail(f"bottom of shape {x} must be (N, C, H, W), C divisible by {self.group}.")
        sides = [(n + 2 * self.pad - self.size) // self.stride + 1 for n in x[2:]]
        if min(sides) < 1:
            self.fail(f"kernel_size {self.size} with pad {self.pad} does not fit into {x}.")
        return [(x[0], self.count, *sides)]

    def window(self, channels: int) -> int:
        """Values in a window."""
        return channels * self.size * self.size

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Bias, linear weight, quadratic weight."""
        channels = shapes[0][1]
        p, values = self.p, self.window(channels)
        linear = (self.count, channels // self.group, self.size, self.size)
        off = BlobSpec((1, 1, 1, self.count))
        return [
            BlobSpec((1, 1, 1, self.count), p.bias_filler if p.bias_term else None, "bias"),
            BlobSpec(linear, p.linear_weight_filler) if p.linear_term else off,
            BlobSpec((1, self.count, values, values), p.quadratic_weight_filler)
            if p.quadratic_term
            else off,
        ]

    def triangle(self, values: int) -> np.ndarray:
        """Factors of Q: 1, or 2 above and 0 below the diagonal."""
        square = np.ones((values, values), np.float32)
        return np.triu(square) + np.triu(square, 1) if self.p.symmetric else square

    def forward(self, x: Tensor) -> Tensor:
        """Sum of the terms that are on."""
        shape = self.infer([tuple(x.shape)])[0]
        y = x.new_zeros(shape)
        if self.p.linear_term:
            y = functional.conv2d(
                x, self.blobs[1], None, self.stride, self.pad, groups=self.group
            )  # fmt: skip
        if self.p.quadratic_term:
            windows = functional.unfold(x, self.size, padding=self.pad, stride=self.stride)
            factors = torch.from_numpy(self.triangle(windows.shape[1])).to(x)
            sums = [(windows * (q @ windows)).sum(1) for q in self.blobs[2][0] * factors]
            y = y + torch.stack(sums, 1).reshape(shape)
        return y + self.blobs[0].reshape(-1, 1, 1) if self.p.bias_term else y

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """The terms, then their sum; a switched off one is a zero weight."""
        shape = e.shape(bottoms[0])
        _, _, height, width = self.infer([shape])[0]
        channels, values = shape[1], self.window(shape[1])
        weight = np.zeros((self.count, channels // self.group, self.size, self.size), np.float32)
        linear = [e.blob(1) if self.p.linear_term else e.constant(weight, "no_weight")]
        if self.p.bias_term:
            linear += e.op("Reshape", [e.blob(0), _ints(e, [-1], "flat")])
        parts = [self.emit_conv(e, [bottoms[0], *linear], self.group)]
        if self.p.quadratic_term:
            eye = np.eye(values, dtype=np.float32).reshape(values, channels, self.size, self.size)
            windows = self.emit_conv(e, [bottoms[0], e.constant(eye, "windows")])
            (q,) = e.op("Mul", [e.blob(2), e.constant(self.triangle(values), "triangle")])
            (q,) = e.op("Reshape", [q, _ints(e, [-1, values, 1, 1], "filters")])
            (turned,) = e.op("Conv", [windows, q])
            area = height * width
            split = _ints(e, [0, self.count, values, area], "split")
            (turned,) = e.op("Reshape", [turned, split])
            (windows,) = e.op("Reshape", [windows, _ints(e, [0, 1, values, area], "each")])
            (products,) = e.op("Mul", [turned, windows])
            sums = e.reduce("ReduceSum", products, [2], keepdims=False)
            sizes = _ints(e, [0, self.count, height, width], "sizes")
            parts += e.op("Reshape", [sums, sizes])
        e.op("Sum", parts, tops)

    def emit_conv(self, e: Emitter, inputs: list[str], group: int = 1) -> str:
        """A Conv of this layer's window."""
        return e.op(
            "Conv", inputs, kernel_shape=[self.size] * 2, strides=[self.stride] * 2,
            pads=[self.pad] * 4, group=group,
        )[0]  # fmt: skip

    def macs(self, shapes: Sequence[Shape]) -> int:
        """Each window's products with Q, with itself, and with w."""
        values = self.window(shapes[0][1])
        each = (values + 1) * values if self.p.quadratic_term else 0
        each += values // self.group if self.p.linear_term else 0
        return math.prod(self.infer(shapes)[0]) * each


def _ints(e: Emitter, value: object, hint: str) -> str:
    return e.constant(np.array(value, np.int64), hint)
