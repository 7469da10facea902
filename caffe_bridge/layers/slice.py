"""Slice: cut a blob into parts along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, at_least
from caffe_bridge.layers.registry import register


@register("Slice")
class Slice(Layer):
    """Cut the bottom along ``axis``; top ``i`` holds ``slice_point[i-1] .. slice_point[i]``.

    Bottoms:
        x: any shape with at least one axis.
    Tops:
        y_1 .. y_m: x's shape with their own size on ``axis``.
    Parameters:
        axis (1): may be negative; or its old name slice_dim, not both.
        slice_point: m - 1 increasing positions; equal parts when there are none.
    ONNX:
        Split; no node for one top.
    Caffe source:
        slice_layer.cpp
    Differences:
        none.
    """

    param_field = "slice_param"
    tops = at_least(1)

    def configure(self) -> None:
        """Check that the axis is named once and the number of slice points."""
        if self.p.has("axis") and self.p.has("slice_dim"):
            self.fail("gives both axis and slice_dim; keep axis.")
        points = list(self.p.slice_point)
        if points and len(points) != len(self.spec.tops) - 1:
            self.fail(
                f"gives {len(points)} slice_point values for {len(self.spec.tops)} tops; "
                f"give {len(self.spec.tops) - 1}, or none for equal parts."
            )

    def axis_of(self, shape: Shape) -> int:
        """The axis cut, non-negative."""
        if self.p.has("slice_dim"):
            return self.axis(int(self.p.slice_dim), shape, "slice_dim")
        return self.axis(int(self.p.axis), shape)

    def sizes(self, shape: Shape) -> list[int]:
        """Sizes of the tops on the axis.

        Raises:
            ShapeError: the slice points do not fit the bottom.
        """
        size, count = shape[self.axis_of(shape)], len(self.spec.tops)
        points = [int(p) for p in self.p.slice_point]
        if not points:
            if size % count:
                self.fail(
                    f"axis {self.axis_of(shape)} of bottom shape {tuple(shape)} has {size} "
                    f"entries, not divisible among {count} tops; give slice_point."
                )
            return [size // count] * count
        ends = [0, *points, size]
        sizes = [b - a for a, b in pairwise(ends)]
        if min(sizes) < 1:
            self.fail(
                f"slice_point {points} must increase strictly between 0 and the {size} entries of "
                f"axis {self.axis_of(shape)}."
            )
        return sizes

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """One shape per part."""
        shape = tuple(shapes[0])
        axis = self.axis_of(shape)
        return [(*shape[:axis], size, *shape[axis + 1 :]) for size in self.sizes(shape)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Cut."""
        shape = tuple(x.shape)
        return x.split(self.sizes(shape), self.axis_of(shape))

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Split with stated sizes."""
        if len(tops) == 1:
            e.alias(bottoms[0], tops[0])
            return
        shape = e.shape(bottoms[0])
        sizes = e.constant(np.array(self.sizes(shape), np.int64), "sizes")
        e.op("Split", [bottoms[0], sizes], tops, axis=self.axis_of(shape))
