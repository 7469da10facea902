"""Bias: a learned or given addend, spread over the other axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer, between
from caffe_bridge.layers.registry import register


class Spread(Layer):
    """Base of Bias and Scale: which axes of the first bottom a small operand covers."""

    bottoms = between(1, 2)

    def covered(self, shapes: Sequence[Shape]) -> tuple[int, Shape]:
        """First covered axis and the operand's shape.

        Raises:
            ShapeError: the second bottom does not match the first from ``axis`` on, or num_axes
                reaches beyond the end.
        """
        shape = tuple(shapes[0])
        if len(shapes) > 1:
            given = tuple(shapes[1])
            axis = self.axis(self.p.axis, shape) if given else 0
            if shape[axis : axis + len(given)] != given:
                self.fail(
                    f"bottom '{self.spec.bottoms[1]}' has shape {given}, which does not match "
                    f"bottom '{self.spec.bottoms[0]}' {shape} from axis {axis} on."
                )
            return axis, given
        if self.p.num_axes == 0:
            return 0, ()
        axis = self.axis(self.p.axis, shape)
        end = len(shape) if self.p.num_axes == -1 else axis + self.p.num_axes
        if not axis < end <= len(shape):
            self.fail(
                f"num_axes {self.p.num_axes} from axis {axis} does not fit bottom shape {shape}; "
                "use -1 for all that follow."
            )
        return axis, shape[axis:end]

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shape of the first bottom."""
        self.covered(shapes)
        return [tuple(shapes[0])]

    def spread(self, operand: Tensor, x: Tensor) -> Tensor:
        """The operand with trailing axes of size 1, so that it broadcasts over ``x``."""
        axis, shape = self.covered([tuple(x.shape), tuple(operand.shape)][: len(self.spec.bottoms)])
        if tuple(operand.shape) != shape:
            self.fail(
                f"was built for an operand of shape {tuple(operand.shape)}; bottom shape "
                f"{tuple(x.shape)} needs {shape}."
            )
        return operand.reshape(*shape, *[1] * (x.ndim - axis - len(shape)))

    def emit_blob(self, e: Emitter, index: int, shapes: Sequence[Shape]) -> str:
        """An initializer with the value of a blob, shaped to broadcast."""
        axis, shape = self.covered(shapes)
        value = self.blobs[index].detach().cpu().numpy().astype(np.float32)
        return e.constant(
            value.reshape(*shape, *[1] * (len(shapes[0]) - axis - len(shape))), f"blob{index}"
        )

    def emit_bottom(self, e: Emitter, value: str, shapes: Sequence[Shape]) -> str:
        """The second bottom, shaped to broadcast."""
        axis, shape = self.covered(shapes)
        rest = np.arange(len(shape), len(shapes[0]) - axis, dtype=np.int64)
        if not shape or not len(rest):
            return value
        return e.op("Unsqueeze", [value, e.constant(rest, "axes")])[0]


@register("Bias")
class Bias(Spread):
    """Add an operand: ``y = x + b``, where b covers the axes from ``axis`` on.

    Bottoms:
        x: any shape.
        b (optional): a shape that equals x's from ``axis`` on, or a scalar; replaces the blob.
    Tops:
        y: the shape of x; may be in place.
    Blobs:
        bias: x's shape from ``axis``, num_axes long (-1: to the end, 0: a scalar); ``filler``
        (constant 0). None with a second bottom.
    Parameters:
        axis (1), num_axes (1), filler.
    ONNX:
        Add.
    Caffe source:
        bias_layer.cpp
    Differences:
        none.
    """

    param_field = "bias_param"

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """The bias, unless it is a bottom."""
        if len(shapes) > 1:
            return []
        return [BlobSpec(self.covered(shapes)[1], self.p.filler, "bias")]

    def forward(self, x: Tensor, b: Tensor | None = None) -> Tensor:
        """Add."""
        return x + self.spread(self.blobs[0] if b is None else b, x)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Add."""
        shapes = [e.shape(bottom) for bottom in bottoms]
        if len(bottoms) > 1:
            operand = self.emit_bottom(e, bottoms[1], shapes)
        else:
            operand = self.emit_blob(e, 0, shapes)
        e.op("Add", [bottoms[0], operand], tops)
