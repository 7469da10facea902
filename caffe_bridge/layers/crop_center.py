"""CropCenter: cuts a border off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("CropCenter")
class CropCenter(Layer):
    """Cut: y is x without the first and last ``crop_size`` values of every axis.

    Bottoms:
        x: any shape.
    Tops:
        y: each size less twice its crop_size.
    Parameters:
        crop_size: one for each axis, from axis 0 on.
    ONNX:
        Slice.
    Caffe source:
        crop_center_layer.cpp of lltcggie/caffe
    Differences:
        none.
    """

    param_field = "crop_center_param"

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """What is left, at least one value of each axis."""
        x, borders = tuple(shapes[0]), [int(size) for size in self.p.crop_size]
        left = [n - 2 * border for n, border in zip(x, borders, strict=False)]
        if len(borders) != len(x) or min(left, default=1) < 1:
            self.fail(
                f"crop_size {borders} must have a border for each axis of bottom shape {x} and "
                "leave at least one value."
            )
        return [tuple(left)]

    def forward(self, x: Tensor) -> Tensor:
        """Cut."""
        for axis, border in enumerate(self.p.crop_size):
            x = x.narrow(axis, int(border), x.shape[axis] - 2 * int(border))
        return x.contiguous()

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Slice the axes that have a border."""
        cut = [(axis, int(border)) for axis, border in enumerate(self.p.crop_size) if border]
        if not cut:
            e.alias(bottoms[0], tops[0])
            return
        axes, borders = (np.array(values, np.int64) for values in zip(*cut, strict=True))
        bounds = [e.constant(borders, "starts"), e.constant(-borders, "ends")]
        e.op("Slice", [bottoms[0], *bounds, e.constant(axes, "axes")], tops)
