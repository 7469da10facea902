"""Crop: cuts a blob to the size of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register


@register("Crop")
class Crop(Layer):
    """Cut: from ``axis`` on, y is the part of x that starts at ``offset`` and has r's sizes.

    Bottoms:
        x: any shape.
        r: a blob of the same rank that only gives sizes; no gradient reaches it.
    Tops:
        y: x's sizes before ``axis``, r's from there.
    Parameters:
        axis (2; negative counts from the end), offset (none: 0; one for all axes, or one each).
    ONNX:
        Slice with constant bounds; along axis 0 with bounds from the shape of r.
    Caffe source:
        crop_layer.cpp
    Differences:
        none.
    """

    param_field = "crop_param"
    bottoms = exactly(2)
    no_gradient_bottoms = (1,)

    def bounds(self, shapes: Sequence[Shape]) -> list[tuple[int, int, int]]:
        """(axis, start, end) of every cropped axis, checked.

        Raises:
            ShapeError: other ranks, a wrong number of offsets, or a part beyond the end.
        """
        whole, wanted = tuple(shapes[0]), tuple(shapes[1])
        if len(whole) != len(wanted):
            self.fail(f"bottoms must have the same number of axes, found {whole} and {wanted}.")
        first = self.axis(self.p.axis, whole)
        axes = range(first, len(whole))
        offsets = [int(v) for v in self.p.offset] or [0]
        if len(offsets) not in (1, len(axes)):
            self.fail(
                f"gives {len(offsets)} offsets for {len(axes)} cropped axes; give 1 or {len(axes)}."
            )
        if len(offsets) == 1:
            offsets *= len(axes)
        found = []
        for axis, offset in zip(axes, offsets, strict=True):
            end = offset + wanted[axis]
            if end > whole[axis]:
                self.fail(
                    f"offset {offset} plus size {wanted[axis]} exceeds size {whole[axis]} of axis "
                    f"{axis} of bottom '{self.spec.bottoms[0]}'."
                )
            found.append((axis, offset, end))
        return found

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Sizes of the first bottom, from ``axis`` on of the second."""
        shape = list(shapes[0])
        for axis, start, end in self.bounds(shapes):
            shape[axis] = end - start
        return [tuple(shape)]

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Cut."""
        for axis, start, end in self.bounds([tuple(x.shape), tuple(reference.shape)]):
            x = x.narrow(axis, start, end - start)
        return x.contiguous()

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Slice along the axes that are really cut."""
        shapes = [e.shape(bottom) for bottom in bottoms]
        cut = [b for b in self.bounds(shapes) if b[2] - b[1] != shapes[0][b[0]]]
        if not cut:
            e.alias(bottoms[0], tops[0])
            return
        axes, starts, ends = (np.array(values, np.int64) for values in zip(*cut, strict=True))
        begin, over = e.constant(starts, "starts"), e.constant(axes, "axes")
        if axes[0] == 0:
            # The number of images may be free: read it from the second bottom.
            (sizes,) = e.op("Gather", [e.op("Shape", [bottoms[1]])[0], over], axis=0)
            (end,) = e.op("Add", [sizes, begin])
        else:
            end = e.constant(ends, "ends")
        e.op("Slice", [bottoms[0], begin, end, over], tops)
