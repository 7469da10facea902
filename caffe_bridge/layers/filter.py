"""Filter: keep the items of a batch that a selector marks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, at_least
from caffe_bridge.layers.registry import register


@register("Filter")
class Filter(Layer):
    """Items whose selector is not 0, in order: ``y_i = x_i[selector != 0]``.

    Bottoms:
        x_1 .. x_m: (N, ...).
        selector: (N,) or (N, 1, ..), the last bottom.
    Tops:
        y_1 .. y_m: (K, ...), K = number of marked items, 0 to N. The declared shape has N.
    Gradient:
        items that were left out get 0; none for the selector.
    ONNX:
        NonZero and Gather; K is an open size.
    Caffe source:
        filter_layer.cpp
    Differences:
        a gradient forced on the selector is 0; Caffe aborts.
    """

    bottoms = at_least(2)
    tops = at_least(1)
    open_axis = 0

    def configure(self) -> None:
        """Check that there is a top for every bottom but the selector."""
        if len(self.spec.tops) != len(self.spec.bottoms) - 1:
            self.fail(
                f"has {len(self.spec.bottoms)} bottoms and {len(self.spec.tops)} tops; give one "
                "top for each bottom but the selector."
            )

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The bottoms' shapes: all items may pass."""
        *items, selector = (tuple(s) for s in shapes)
        if not selector or any(size != 1 for size in selector[1:]):
            self.fail(
                f"selector '{self.spec.bottoms[-1]}' has shape {selector}; it must hold one value "
                "per item."
            )
        for name, shape in zip(self.spec.bottoms, items, strict=False):
            if not shape or shape[0] != selector[0]:
                self.fail(
                    f"bottom '{name}' has shape {shape} but selector '{self.spec.bottoms[-1]}' "
                    f"{selector[0]} items; the first axes must be equal."
                )
        return items

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Gather the marked items."""
        kept = bottoms[-1].detach().reshape(-1).nonzero().reshape(-1)
        return tuple(x.index_select(0, kept) for x in bottoms[:-1])

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """NonZero, then one Gather per top."""
        line = e.constant(np.array([-1], np.int64), "line")
        (marks,) = e.op("Reshape", [bottoms[-1], line])
        (places,) = e.op("NonZero", [marks])
        (kept,) = e.op("Reshape", [places, line])
        for bottom, top in zip(bottoms[:-1], tops, strict=True):
            e.op("Gather", [bottom, kept], [top], axis=0)
