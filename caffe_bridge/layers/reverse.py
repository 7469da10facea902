"""Reverse: turn axes around."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, between
from caffe_bridge.layers.registry import register


@register("Reverse")
class Reverse(Layer):
    """Run an axis backwards: ``y[i] = x[n - 1 - i]``, or each sequence within its length.

    Bottoms:
        x: any shape; with a second bottom (T, N, C).
        indicator (optional): (T, N); a sequence ends with the last t that is not 0, and has at
            least one step.
    Tops:
        y: the same shape.
    Parameters:
        axis (0; several may be given, not with an indicator).
    Gradient:
        none for the indicator.
    ONNX:
        Slice with step -1; refused with an indicator.
    Caffe source:
        reverse_layer.cpp of the text-recognition forks
    Differences:
        behind the end of a sequence y is 0; there it keeps what it held before.
    """

    param_field = "reverse_param"
    bottoms = between(1, 2)
    no_gradient_bottoms = (1,)

    def configure(self) -> None:
        """Check which parameters are given together."""
        self.axes = [int(axis) for axis in self.p.axis] or [0]
        if len(self.spec.bottoms) > 1 and self.p.has("axis"):
            self.fail("gives an axis and an indicator, which is for axis 0; keep one.")

    def _axes(self, shape: Shape) -> list[int]:
        found = [self.axis(axis, shape) for axis in self.axes]
        if len(set(found)) != len(found):
            self.fail(f"axis {self.axes} names an axis twice.")
        return found

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The bottom's shape."""
        shape = tuple(shapes[0])
        if len(shapes) > 1 and (len(shape) != 3 or tuple(shapes[1]) != shape[:2]):
            self.fail(
                f"with an indicator takes bottoms (T, N, C) and (T, N), found {shape} and "
                f"{tuple(shapes[1])}."
            )
        self._axes(shape)
        return [shape]

    def forward(self, x: Tensor, indicator: Tensor | None = None) -> Tensor:
        """Turn around."""
        if indicator is None:
            return x.flip(self._axes(tuple(x.shape)))
        steps = torch.arange(1, x.shape[0] + 1, device=x.device)[:, None]
        ends = torch.where(indicator != 0, steps, 1).amax(0)
        place = ends - steps
        index = place.clamp(min=0)[..., None].expand(x.shape)
        return x.gather(0, index) * (place >= 0)[..., None].to(x.dtype)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Slice backwards."""
        if len(bottoms) > 1:
            self.refuse("an indicator has no ONNX form; reverse whole axes.")
        axes = self._axes(e.shape(bottoms[0]))
        values = {"starts": -1, "ends": np.iinfo(np.int64).min + 1}
        names = [e.constant(np.full(len(axes), v, np.int64), k) for k, v in values.items()]
        names.append(e.constant(np.array(axes, np.int64), "axes"))
        names.append(e.constant(np.full(len(axes), -1, np.int64), "steps"))
        e.op("Slice", [bottoms[0], *names], tops)
