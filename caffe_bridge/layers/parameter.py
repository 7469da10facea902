"""Parameter: a learnable blob as a top."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer, exactly
from caffe_bridge.layers.registry import register


@register("Parameter")
class Parameter(Layer):
    """Show a learnable blob to other layers: ``y = w``.

    Bottoms:
        none.
    Tops:
        y: ``shape``; shares the blob's memory.
    Blobs:
        weight: ``shape``, zeros until weights are loaded.
    Parameters:
        shape.
    ONNX:
        the initializer itself.
    Caffe source:
        parameter_layer.hpp
    Differences:
        none.
    """

    param_field = "parameter_param"
    bottoms = exactly(0)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shape in the parameters."""
        return [tuple(int(d) for d in self.p.shape.dim)]

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """The blob shown."""
        return [BlobSpec(self.infer(shapes)[0])]

    def forward(self) -> Tensor:
        """Show the blob."""
        return self.blobs[0].view_as(self.blobs[0])

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """The top is another name of the initializer."""
        e.alias(e.blob(0), tops[0])
