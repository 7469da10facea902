"""Input: blobs that the caller fills."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, at_least, exactly
from caffe_bridge.layers.registry import register


@register("Input")
class Input(Layer):
    """Entry of a net: the caller gives the tops.

    Bottoms:
        none.
    Tops:
        one per input, of the shapes in ``input_param``.
    Parameters:
        shape: one BlobShape for all tops, or one for each.
    ONNX:
        graph inputs.
    Caffe source:
        input_layer.cpp
    Differences:
        none.
    """

    param_field = "input_param"
    bottoms = exactly(0)
    tops = at_least(1)
    is_input = True

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes in the parameters."""
        given = [tuple(int(d) for d in shape.dim) for shape in self.p.shape]
        count = len(self.spec.tops)
        if len(given) not in (1, count):
            self.fail(
                f"gives {len(given)} shapes for {count} tops; give one shape for all or one each "
                "(for a net without shapes use --input name=1,3,224,224)."
            )
        return given * count if len(given) == 1 else given

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Nothing: its tops are graph inputs."""
