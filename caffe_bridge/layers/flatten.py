"""Flatten: merge neighbouring axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("Flatten")
class Flatten(Layer):
    """Merge the axes ``axis`` to ``end_axis`` (inclusive) into one.

    Bottoms:
        x: (*lead, *merged, *rest).
    Tops:
        y: (*lead, prod(merged), *rest); not in place.
    Parameters:
        axis (1), end_axis (-1): first and last axis merged; may be negative.
    ONNX:
        Reshape.
    Caffe source:
        flatten_layer.cpp
    Differences:
        none.
    """

    param_field = "flatten_param"

    def configure(self) -> None:
        """Refuse to work in place."""
        if self.spec.tops[0] == self.spec.bottoms[0]:
            self.fail("cannot work in place; give its top another name.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Lead, product, rest."""
        shape = tuple(shapes[0])
        first = self.axis(int(self.p.axis), shape)
        last = self.axis(int(self.p.end_axis), shape, "end_axis")
        if last < first - 1:
            self.fail(
                f"axis {self.p.axis} lies after end_axis {self.p.end_axis} in bottom shape "
                f"{shape}; exchange them."
            )
        return [(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])]

    def forward(self, x: Tensor) -> Tensor:
        """Give x the new shape."""
        return x.reshape(self.infer([tuple(x.shape)])[0])

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Reshape."""
        e.reshape(bottoms[0], e.shape(tops[0]), tops[0])
