"""BatchReindex: choose, repeat or reorder the items of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register

#: ONNX's number of the element type int64.
_INT64 = 7


@register("BatchReindex")
class BatchReindex(Layer):
    """Items of the batch by number: ``y[i] = x[index[i]]``.

    Bottoms:
        x: (N, ...).
        index: (M,), item numbers; fractions are cut off.
    Tops:
        y: (M, ...).
    Gradient:
        items taken more than once collect the sum; none for index.
    ONNX:
        Cast and Gather.
    Caffe source:
        batch_reindex_layer.cpp
    Differences:
        none.
    """

    bottoms = exactly(2)
    no_gradient_bottoms = (1,)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """As many items as numbers."""
        if len(shapes[1]) != 1 or not shapes[0]:
            self.fail(
                f"needs items (N, ...) and one axis of numbers, found {tuple(shapes[0])} and "
                f"{tuple(shapes[1])}."
            )
        return [(shapes[1][0], *shapes[0][1:])]

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Gather.

        Raises:
            ShapeError: a number outside the batch.
        """
        numbers = index.detach().long()
        wrong = numbers[(numbers < 0) | (numbers >= x.shape[0])]
        if wrong.numel():
            self.fail(
                f"bottom '{self.spec.bottoms[1]}' asks for item {int(wrong[0])} of a batch of "
                f"{x.shape[0]}."
            )
        return x.index_select(0, numbers)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Cast and Gather."""
        (numbers,) = e.op("Cast", [bottoms[1]], to=_INT64)
        e.op("Gather", [bottoms[0], numbers], tops, axis=0)
