"""Im2col: the pixels under every position of a window, as columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register
from caffe_bridge.layers.window import Window, window

_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@register("Im2col")
class Im2col(Layer):
    """Window pixels as channels: ``y[n, (c, i, j), h, w] = x[n, c, h s - p + d i, w s - p + d j]``.

    Bottoms:
        x: (N, C, *spatial), 1 to 3 spatial axes; ``axis`` names C's position.
    Tops:
        y: (N, C * kernel volume, *floor((size + 2 pad - extent) / stride + 1)); 0 beyond x.
    Parameters:
        kernel_size or kernel_h/kernel_w, stride (1), pad (0), dilation (1), axis (1).
    ONNX:
        Conv with group C whose filters each pick one pixel.
    Caffe source:
        im2col_layer.cpp
    Differences:
        computed as that convolution, so an infinite value makes its whole window NaN; more than
        three spatial axes are refused.
    """

    param_field = "convolution_param"

    def geometry(self, shape: Shape) -> tuple[int, Window]:
        """Channel axis and window.

        Raises:
            ShapeError: no spatial axes, too many, or a kernel that does not fit.
        """
        axis = self.axis(self.p.axis, shape)
        if not 1 <= len(shape) - axis - 1 <= 3:
            self.fail(
                f"bottom shape {tuple(shape)} must have 1 to 3 spatial axes after axis {axis}."
            )
        found = window(self, len(shape) - axis - 1)
        if any(size < 1 for size in found.convolved(tuple(shape[axis + 1 :]))):
            self.fail(
                f"kernel {found.kernel} with pad {found.pad} does not fit into bottom shape "
                f"{tuple(shape)}."
            )
        return axis, found

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Channels times kernel volume, one column per position."""
        shape = tuple(shapes[0])
        axis, found = self.geometry(shape)
        channels = shape[axis] * math.prod(found.kernel)
        return [(*shape[:axis], channels, *found.convolved(shape[axis + 1 :]))]

    def forward(self, x: Tensor) -> Tensor:
        """Pick the pixels."""
        axis, found = self.geometry(tuple(x.shape))
        volume = math.prod(found.kernel)
        pick = torch.eye(volume, dtype=x.dtype, device=x.device).reshape(volume, 1, *found.kernel)
        flat = x.reshape(-1, *x.shape[axis:])
        y = _CONVOLVE[len(found.kernel)](
            flat, pick.repeat(x.shape[axis], *[1] * (len(found.kernel) + 1)), None,
            found.stride, found.pad, found.dilation, x.shape[axis],
        )  # fmt: skip
        return y.reshape(*x.shape[:axis], *y.shape[1:])

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """One Conv."""
        shape = e.shape(bottoms[0])
        axis, found = self.geometry(shape)
        if axis != 1:
            self.refuse(f"axis {self.p.axis} has no ONNX form; only channels on axis 1.")
        volume = math.prod(found.kernel)
        pick = np.eye(volume, dtype=np.float32).reshape(volume, 1, *found.kernel)
        weight = e.constant(np.concatenate([pick] * shape[1]), "pick")
        e.op(
            "Conv", [bottoms[0], weight], tops,
            kernel_shape=list(found.kernel), strides=list(found.stride),
            pads=list(found.pad) * 2, dilations=list(found.dilation), group=shape[1],
        )  # fmt: skip
