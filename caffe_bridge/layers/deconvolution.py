"""Deconvolution: the transpose of a convolution, used to enlarge maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.convolution import Convolution
from caffe_bridge.layers.registry import register
from caffe_bridge.layers.window import Window

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
        ConvTranspose with explicit pads and the same weight layout.
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

    def macs(self, shapes: Sequence[Shape]) -> int:
        """Input values * num_output / group * kernel volume, per bottom."""
        return sum(
            math.prod(shape)
            * (int(self.p.num_output) // self.group)
            * math.prod(self.geometry(shape).kernel)
            for shape in shapes
        )
