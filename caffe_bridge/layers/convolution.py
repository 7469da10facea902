"""Convolution: correlation of the bottoms with a bank of filters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer, at_least
from caffe_bridge.layers.registry import register
from caffe_bridge.layers.window import Window, window

#: Channels of a block of onnxruntime's layout for wide vector units.
BLOCK = 16
#: Most groups that are merged without measuring; the products grow by this number.
MERGE = 4
_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@register("Convolution")
class Convolution(Layer):
    """Correlation: ``y[n, o] = b[o] + sum_c w[o, c] * x[n, c]`` over 1 to 3 spatial axes.

    Bottoms:
        x_1 .. x_m: (N, C, *spatial); all share the filters. ``axis`` names C's position.
    Tops:
        y_1 .. y_m: (N, num_output, *floor((size + 2 pad - extent) / stride + 1)).
    Blobs:
        weight: (num_output, C / group, *kernel), ``weight_filler``.
        bias: (num_output,), ``bias_filler``, unless ``bias_term: false``.
    Parameters:
        num_output, kernel_size or kernel_h/kernel_w, stride (1), pad (0), dilation (1),
        group (1), bias_term (true), axis (1).
    ONNX:
        ``groups`` (portable): Conv with explicit pads. ``merged``: neighbouring groups become one
        whose other weights are zero, so many that a group holds whole blocks of onnxruntime's
        channel layout (ort-cpu, where that takes at most MERGE groups together and the kernel is
        larger than a pixel).
    Caffe source:
        conv_layer.cpp, base_conv_layer.cpp
    Differences:
        more than three spatial axes are refused.
    """

    param_field = "convolution_param"
    bottoms = at_least(1)
    tops = at_least(1)
    onnx_op = "Conv"

    def configure(self) -> None:
        """Check num_output, group and the number of tops."""
        if self.p.num_output < 1:
            self.fail("num_output is missing or zero; give the number of filters.")
        if self.p.num_output % self.group:
            self.fail(
                f"num_output {self.p.num_output} is not divisible by group {self.group}; "
                "use a group that divides it."
            )
        if len(self.spec.bottoms) != len(self.spec.tops):
            self.fail(
                f"has {len(self.spec.bottoms)} bottoms and {len(self.spec.tops)} tops; "
                "give one top for each bottom."
            )

    @property
    def group(self) -> int:
        """Number of channel groups."""
        return int(self.p.group)

    def channels(self, shape: Shape) -> int:
        """Input channels, checked against the group.

        Raises:
            ShapeError: no spatial axes, or channels not divisible by the group.
        """
        axis = self.axis(self.p.axis, shape)
        if not 1 <= len(shape) - axis - 1 <= 3:
            self.fail(
                f"bottom shape {tuple(shape)} must have 1 to 3 spatial axes after axis {axis}."
            )
        if shape[axis] % self.group:
            self.fail(
                f"bottom '{self.spec.bottoms[0]}' has {shape[axis]} channels, not divisible by "
                f"group {self.group}; use a group that divides it."
            )
        return shape[axis]

    def geometry(self, shape: Shape) -> Window:
        """Kernel geometry for a bottom shape."""
        return window(self, len(shape) - self.axis(self.p.axis, shape) - 1)

    def sizes(self, geometry: Window, spatial: Shape) -> Shape:
        """Spatial output sizes."""
        return geometry.convolved(spatial)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """One top per bottom."""
        tops = []
        for shape in shapes:
            self.channels(shape)
            axis = self.axis(self.p.axis, shape)
            geometry = self.geometry(shape)
            spatial = self.sizes(geometry, tuple(shape[axis + 1 :]))
            if any(size < 1 for size in spatial):
                self.fail(
                    f"kernel {geometry.kernel} with pad {geometry.pad} does not fit into "
                    f"bottom shape {tuple(shape)}."
                )
            tops.append((*shape[:axis], int(self.p.num_output), *spatial))
        return tops

    def weight_shape(self, channels: int, kernel: Shape) -> Shape:
        """Shape of the weight blob."""
        return (int(self.p.num_output), channels // self.group, *kernel)

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Weight, and bias unless switched off."""
        channels = self.channels(shapes[0])
        weight = self.weight_shape(channels, self.geometry(shapes[0]).kernel)
        specs = [BlobSpec(weight, self.p.weight_filler, "weight")]
        if self.p.bias_term:
            specs.append(BlobSpec((int(self.p.num_output),), self.p.bias_filler, "bias"))
        return specs

    def convolve(self, x: Tensor, geometry: Window) -> Tensor:
        """Convolve one bottom (N, C, *spatial)."""
        bias = self.blobs[1] if len(self.blobs) > 1 else None
        return _CONVOLVE[x.ndim - 2](
            x, self.blobs[0], bias, geometry.stride, geometry.pad, geometry.dilation, self.group
        )

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Convolve every bottom with the same filters."""
        tops = []
        for x in bottoms:
            axis = self.axis(self.p.axis, tuple(x.shape))
            one = x if axis == 1 else x.reshape(math.prod(x.shape[:axis]), *x.shape[axis:])
            y = self.convolve(one, self.geometry(tuple(x.shape)))
            tops.append(y if axis == 1 else y.reshape(*x.shape[:axis], *y.shape[1:]))
        return tuple(tops)

    def merged_groups(self, shape: Shape) -> int:
        """Neighbouring groups that fill whole blocks of channels together; 1 = leave them."""
        inputs, outputs = shape[1] // self.group, int(self.p.num_output) // self.group
        if len(shape) != 4 or self.group == 1 or (inputs == 1 and outputs == 1):
            return 1
        for count in range(1, self.group + 1):
            whole = count * inputs % BLOCK == 0 and count * outputs % BLOCK == 0
            if self.group % count == 0 and (whole or count == self.group):
                return count
        return 1

    def forms(self, shapes: Sequence[Shape]) -> tuple[str, ...]:
        """See the class."""
        return ("groups", "merged") if self.merged_groups(shapes[0]) > 1 else ("groups",)

    def form_for(self, target: str, shapes: Sequence[Shape]) -> str:
        """The form of a target."""
        if target != "ort-cpu" or not 1 < self.merged_groups(shapes[0]) <= MERGE:
            return "groups"
        return "merged" if math.prod(self.geometry(shapes[0]).kernel) > 1 else "groups"

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """One Conv (or ConvTranspose) per bottom."""
        weights = [e.blob(i) for i in range(len(self.blobs))]
        group = self.group
        if e.form == "merged":
            count = self.merged_groups(e.shape(bottoms[0]))
            group //= count
            weights[0] = e.constant(self._merged(count), "merged")
        for bottom, top in zip(bottoms, tops, strict=True):
            shape = e.shape(bottom)
            if self.axis(self.p.axis, shape) != 1:
                self.refuse(f"axis {self.p.axis} has no ONNX form; only channels on axis 1.")
            self.emit_one(e, bottom, top, weights, group)

    def emit_one(
        self, e: Emitter, bottom: str, top: str, weights: Sequence[str], group: int
    ) -> None:
        """The node of one bottom."""
        geometry = self.geometry(e.shape(bottom))
        e.op(
            self.onnx_op, [bottom, *weights], [top],
            kernel_shape=list(geometry.kernel), strides=list(geometry.stride),
            pads=list(geometry.pad) * 2, dilations=list(geometry.dilation), group=group,
        )  # fmt: skip

    def _merged(self, count: int) -> np.ndarray:
        """The weight with ``count`` groups in one: (num_output, count * C / group, *kernel)."""
        weight = self.blobs[0].detach().cpu().numpy().astype(np.float32)
        outputs, inputs = weight.shape[0] // self.group, weight.shape[1]
        wide = np.zeros((len(weight), inputs * count, *weight.shape[2:]), np.float32)
        for first in range(0, len(weight), outputs):
            start = first // outputs % count * inputs
            rows = slice(first, first + outputs)
            wide[rows, start : start + inputs] = weight[rows]
        return wide

    def macs(self, shapes: Sequence[Shape]) -> int:
        """num_output * C / group * kernel volume * output positions, per bottom."""
        total = 0
        for shape, top in zip(shapes, self.infer(shapes), strict=True):
            per_filter = self.channels(shape) // self.group * math.prod(self.geometry(shape).kernel)
            total += math.prod(top) * per_filter
        return total
