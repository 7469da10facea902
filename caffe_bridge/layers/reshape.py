"""Reshape: give a blob another shape without moving its values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("Reshape")
class Reshape(Layer):
    """Replace ``num_axes`` axes from ``axis`` on by ``shape``.

    ``y.shape = x.shape[:axis] + shape + x.shape[axis + num_axes:]``.

    Bottoms:
        x: any shape.
    Tops:
        y: as many values; not in place.
    Parameters:
        shape: sizes; 0 copies the bottom's size at ``axis`` + position, one -1 takes what is left.
        axis (0): first axis replaced; negative counts from behind, -1 is after the last axis.
        num_axes (-1): how many are replaced; -1 is all that follow, 0 only inserts.
    ONNX:
        Reshape.
    Caffe source:
        reshape_layer.cpp
    Differences:
        none.
    """

    param_field = "reshape_param"

    def configure(self) -> None:
        """Check the sizes and refuse to work in place."""
        if self.spec.tops[0] == self.spec.bottoms[0]:
            self.fail("cannot work in place; give its top another name.")
        dims = [int(d) for d in self.p.shape.dim]
        if dims.count(-1) > 1 or any(d < -1 for d in dims):
            self.fail(f"shape {dims} may hold one -1 and no other negative size.")
        if self.p.num_axes < -1:
            self.fail(f"num_axes {self.p.num_axes} must be -1 or more.")

    def _replaced(self, shape: Shape) -> tuple[int, int]:
        """First axis replaced and the one after the last."""
        axis = int(self.p.axis)
        start = axis + len(shape) + 1 if axis < 0 else axis
        if not 0 <= start <= len(shape):
            self.fail(f"axis {axis} is outside bottom shape {shape}.")
        end = len(shape) if self.p.num_axes == -1 else start + int(self.p.num_axes)
        if end > len(shape):
            self.fail(
                f"axis {axis} and num_axes {self.p.num_axes} reach beyond bottom shape {shape}."
            )
        return start, end

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The new shape, with the same number of values."""
        shape = tuple(shapes[0])
        start, end = self._replaced(shape)
        new = [int(d) for d in self.p.shape.dim]
        for position, size in enumerate(new):
            if size == 0:
                if start + position >= len(shape):
                    self.fail(
                        f"dim {position} is 0 but bottom shape {shape} has no axis "
                        f"{start + position} to copy."
                    )
                new[position] = shape[start + position]
        if -1 in new:
            free = new.index(-1)
            known = math.prod(shape[:start]) * math.prod(shape[end:])
            known *= math.prod(size for size in new if size != -1)
            if known == 0 or math.prod(shape) % known:
                self.fail(
                    f"the {math.prod(shape)} values of bottom shape {shape} do not divide by the "
                    f"{known} of the known sizes."
                )
            new[free] = math.prod(shape) // known
        top = (*shape[:start], *new, *shape[end:])
        if math.prod(top) != math.prod(shape):
            self.fail(
                f"bottom shape {shape} holds {math.prod(shape)} values but top shape {top} "
                f"{math.prod(top)}; correct shape, or use -1 for one size."
            )
        return [top]

    def forward(self, x: Tensor) -> Tensor:
        """Give x the new shape."""
        return x.reshape(self.infer([tuple(x.shape)])[0])

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Reshape."""
        e.reshape(bottoms[0], e.shape(tops[0]), tops[0])
