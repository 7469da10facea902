"""Tile: repeat a blob along one axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("Tile")
class Tile(Layer):
    """Put ``tiles`` copies of the bottom one after another: ``y = [x, x, .. x]`` on ``axis``.

    Bottoms:
        x: any shape with at least one axis.
    Tops:
        y: x's shape with ``tiles`` times its size on ``axis``.
    Parameters:
        tiles: required, positive.
        axis (1): may be negative.
    ONNX:
        Tile.
    Caffe source:
        tile_layer.cpp
    Differences:
        none.
    """

    param_field = "tile_param"

    def configure(self) -> None:
        """Check the number of copies."""
        if not self.p.has("tiles") or self.p.tiles < 1:
            self.fail(f"tiles is {self.p.tiles if self.p.has('tiles') else 'missing'}; give 1 "
                      "or more.")  # fmt: skip

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The size on the axis times the copies."""
        top = list(shapes[0])
        top[self.axis(int(self.p.axis), tuple(shapes[0]))] *= int(self.p.tiles)
        return [tuple(top)]

    def _repeats(self, shape: Shape) -> list[int]:
        axis = self.axis(int(self.p.axis), shape)
        return [int(self.p.tiles) if i == axis else 1 for i in range(len(shape))]

    def forward(self, x: Tensor) -> Tensor:
        """Repeat."""
        return x.repeat(self._repeats(tuple(x.shape)))

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Tile."""
        repeats = np.array(self._repeats(e.shape(bottoms[0])), np.int64)
        e.op("Tile", [bottoms[0], e.constant(repeats, "repeats")], tops)
