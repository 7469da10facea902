"""Concat: join blobs along one axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, at_least
from caffe_bridge.layers.registry import register


@register("Concat")
class Concat(Layer):
    """Join the bottoms along ``axis``: ``y = [x_1, x_2, .. x_m]``.

    Bottoms:
        x_1 .. x_m: equal shapes but for ``axis``.
    Tops:
        y: the bottoms' shape with the sum of their sizes on ``axis``.
    Parameters:
        axis (1): may be negative; or its old name concat_dim, not both.
    ONNX:
        Concat; no node for one bottom.
    Caffe source:
        concat_layer.cpp
    Differences:
        none.
    """

    param_field = "concat_param"
    bottoms = at_least(1)

    def configure(self) -> None:
        """Check that the axis is named once."""
        if self.p.has("axis") and self.p.has("concat_dim"):
            self.fail("gives both axis and concat_dim; keep axis.")

    def axis_of(self, shape: Shape) -> int:
        """The axis joined, non-negative."""
        if self.p.has("concat_dim"):
            return self.axis(int(self.p.concat_dim), shape, "concat_dim")
        return self.axis(int(self.p.axis), shape)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Sum of the sizes on the axis."""
        first = tuple(shapes[0])
        axis = self.axis_of(first)
        for name, shape in zip(self.spec.bottoms, shapes, strict=True):
            if len(shape) != len(first) or any(
                a != b for i, (a, b) in enumerate(zip(first, shape, strict=True)) if i != axis
            ):
                self.fail(
                    f"bottom '{name}' has shape {tuple(shape)}, '{self.spec.bottoms[0]}' {first}; "
                    f"all but axis {axis} must be equal."
                )
        return [(*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])]

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Join."""
        return torch.cat(bottoms, self.axis_of(tuple(bottoms[0].shape)))

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Concat."""
        if len(bottoms) == 1:
            e.alias(bottoms[0], tops[0])
        else:
            e.op("Concat", bottoms, tops, axis=self.axis_of(e.shape(bottoms[0])))
