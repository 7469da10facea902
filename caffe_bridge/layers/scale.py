"""Scale: a learned or given factor, spread over the other axes, and an optional bias."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter
from caffe_bridge.layers.bias import Spread
from caffe_bridge.layers.registry import register
from caffe_bridge.schema import Record


@register("Scale")
class Scale(Spread):
    """Multiply by an operand and add a bias: ``y = a x + b`` on the axes from ``axis`` on.

    Bottoms:
        x: any shape.
        a (optional): a shape that equals x's from ``axis`` on, or a scalar; replaces the blob.
    Tops:
        y: the shape of x; may be in place.
    Blobs:
        scale: x's shape from ``axis``, num_axes long (-1: to the end, 0: a scalar); ``filler``
            (constant 1). None with a second bottom.
        bias: the same shape, ``bias_filler`` (constant 0), with ``bias_term: true``.
    Parameters:
        axis (1), num_axes (1), filler, bias_term (false), bias_filler, and from face forks
        min_value (none): a forward pass raises smaller factors of the blob to it.
    ONNX:
        Mul, then Add.
    Caffe source:
        scale_layer.cpp
    Differences:
        min_value has no effect on a second bottom.
    """

    param_field = "scale_param"

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """The factor, unless it is a bottom, and the bias if wanted."""
        shape = self.covered(shapes)[1]
        specs = []
        if len(shapes) == 1:
            one = Record("FillerParameter", type="constant", value=1.0)
            specs.append(BlobSpec(shape, self.p.filler if self.p.has("filler") else one))
        if self.p.bias_term:
            specs.append(BlobSpec(shape, self.p.bias_filler, "bias"))
        return specs

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        """Multiply, then add."""
        if a is None:
            self._raise_factors()
        y = x * self.spread(self.blobs[0] if a is None else a, x)
        return y + self.spread(self.blobs[-1], x) if self.p.bias_term else y

    def _raise_factors(self) -> None:
        if self.p.has("min_value"):
            # Through data: an earlier pass whose gradient is pending saw the same values.
            self.blobs[0].data.clamp_(min=self.p.min_value)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Mul, then Add."""
        shapes = [e.shape(bottom) for bottom in bottoms]
        if len(bottoms) > 1:
            factor = self.emit_bottom(e, bottoms[1], shapes)
        else:
            self._raise_factors()
            factor = self.emit_blob(e, 0, shapes)
        if not self.p.bias_term:
            e.op("Mul", [bottoms[0], factor], tops)
            return
        (product,) = e.op("Mul", [bottoms[0], factor])
        e.op("Add", [product, self.emit_blob(e, len(self.blobs) - 1, shapes)], tops)
