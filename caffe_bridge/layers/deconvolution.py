"""Deconvolution: the transpose of a convolution, used to enlarge maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter
from caffe_bridge.layers.convolution import Convolution
from caffe_bridge.layers.registry import register
from caffe_bridge.layers.window import Window

#: Least stride at which a grouped layer is faster in phases.
PHASES_FROM = 4
_TRANSPOSE = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


@register("Deconvolution")
class Deconvolution(Convolution):
    """Transposed convolution: each input value adds a multiple of the filter to the output.

    Bottoms:
        x_1 .. x_m: (N, C, *spatial), 1 to 3 spatial axes; all share the filters.
    Tops:
        y_1 .. y_m: (N, num_output, *(stride (size - 1) + extent - 2 pad)).
    Blobs:
        weight: (C, num_output / group, *kernel), ``weight_filler``.
        bias: (num_output,), ``bias_filler``, unless ``bias_term: false``.
    Parameters:
        as Convolution's.
    ONNX:
        ``transpose`` (portable): ConvTranspose with explicit pads and the same weight layout.
        ``phases`` (4 axes, no dilation): output pixels of one phase modulo the stride are a
        convolution with every stride-th weight; one Conv makes all phases, DepthToSpace lays them
        out and Slice cuts the padding off. Needs equal strides. It is the ort-cpu form of stride
        1, where nothing is laid out and the Conv stays in onnxruntime's blocked layout, and of
        groups at strides from PHASES_FROM on.
    Caffe source:
        deconv_layer.cpp, base_conv_layer.cpp
    Differences:
        more than three spatial axes are refused.
    """

    onnx_op = "ConvTranspose"

    def sizes(self, geometry: Window, spatial: Shape) -> Shape:
        """Spatial output sizes."""
        return geometry.deconvolved(spatial)

    def weight_shape(self, channels: int, kernel: Shape) -> Shape:
        """Shape of the weight blob: input channels come first."""
        return (channels, int(self.p.num_output) // self.group, *kernel)

    def convolve(self, x: Tensor, geometry: Window) -> Tensor:
        """Spread one bottom (N, C, *spatial)."""
        bias = self.blobs[1] if len(self.blobs) > 1 else None
        return _TRANSPOSE[x.ndim - 2](
            x, self.blobs[0], bias, geometry.stride, geometry.pad, 0, self.group, geometry.dilation
        )

    def forms(self, shapes: Sequence[Shape]) -> tuple[str, ...]:
        """See the class."""
        if len(shapes[0]) != 4 or self.axis(self.p.axis, shapes[0]) != 1:
            return ("transpose",)
        window = self.geometry(shapes[0])
        equal = window.stride[0] == window.stride[1] and window.dilation == (1, 1)
        return ("transpose", "phases") if equal else ("transpose",)

    def form_for(self, target: str, shapes: Sequence[Shape]) -> str:
        """The form of a target."""
        known = self.forms(shapes)
        window = self.geometry(shapes[0])
        stride = window.stride[0]
        quick = stride == 1 or (self.group > 1 and stride >= PHASES_FROM)
        return "phases" if target == "ort-cpu" and quick and "phases" in known else known[0]

    def emit_one(
        self, e: Emitter, bottom: str, top: str, weights: Sequence[str], group: int
    ) -> None:
        """The node or, in phases, the nodes of one bottom."""
        if e.form != "phases":
            super().emit_one(e, bottom, top, weights, group)
            return
        shape, window = e.shape(bottom), self.geometry(e.shape(bottom))
        stride = window.stride[0]
        taps = [-(-kernel // stride) for kernel in window.kernel]
        inputs = [bottom, e.constant(self._phases(stride, taps), "phases")]
        if len(self.blobs) > 1:
            bias = self.blobs[1].detach().cpu().numpy().astype(np.float32)
            inputs.append(e.constant(bias.repeat(stride * stride), "bias"))
        sizes = self.sizes(window, tuple(shape[2:]))
        spread = [stride * (n + t - 1) for n, t in zip(shape[2:], taps, strict=True)]
        ends = [taps[0] - 1, taps[1] - 1]
        if stride == 1 and all(p <= end for p, end in zip(window.pad, ends, strict=True)):
            pads = [end - p for p, end in zip(window.pad, ends, strict=True)] * 2
            e.op("Conv", inputs, [top], kernel_shape=taps, pads=pads, group=group)
            return
        (large,) = e.op("Conv", inputs, kernel_shape=taps, pads=ends * 2, group=group)
        cut = any(window.pad) or list(sizes) != spread
        if stride > 1:
            (large,) = e.op("DepthToSpace", [large], 1 if cut else [top], blocksize=stride,
                            mode="CRD")  # fmt: skip
        if cut:
            ends = [p + n for p, n in zip(window.pad, sizes, strict=True)]
            e.op("Slice", [
                large, e.constant(np.array(window.pad, np.int64), "first"),
                e.constant(np.array(ends, np.int64), "last"),
                e.constant(np.array([2, 3], np.int64), "axes"),
            ], [top])  # fmt: skip

    def _phases(self, stride: int, taps: Sequence[int]) -> np.ndarray:
        """Weights (num_output * stride^2, C / group, *taps) of the convolution into phases."""
        weight = self.blobs[0].detach().cpu().numpy().astype(np.float32)
        high, wide = (stride * t - k for t, k in zip(taps, weight.shape[2:], strict=True))
        weight = np.pad(weight, ((0, 0), (0, 0), (0, high), (0, wide)))
        group, inputs, outputs = self.group, weight.shape[0] // self.group, weight.shape[1]
        split = weight.reshape(group, inputs, outputs, taps[0], stride, taps[1], stride)
        # A transposed convolution meets earlier pixels with later weights: the taps turn round.
        moved = split[:, :, :, ::-1, :, ::-1].transpose(0, 2, 4, 6, 1, 3, 5)
        return moved.reshape(group * outputs * stride * stride, inputs, *taps)

    def macs(self, shapes: Sequence[Shape]) -> int:
        """Input values * num_output / group * kernel volume, per bottom."""
        return sum(
            math.prod(shape)
            * (int(self.p.num_output) // self.group)
            * math.prod(self.geometry(shape).kernel)
            for shape in shapes
        )
