"""ArgMax: where the largest values lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register

#: ONNX's number of the element type float32, and the start of everything for a backward Slice.
_FLOAT, _BEFORE_ALL = 1, -(2**31)


@register("ArgMax")
class ArgMax(Layer):
    """Positions (or values) of the ``top_k`` largest entries, in falling order.

    Of equal values the one at the higher position comes first.

    Bottoms:
        x: (N, ...).
    Tops:
        y: without ``axis``, over everything but N: positions (N, 1, top_k), or positions then
            values (N, 2, top_k) with ``out_max_val``; ones follow up to the rank of x.
            With ``axis``: x's shape with top_k there, positions, or values with ``out_max_val``.
    Parameters:
        top_k (1), out_max_val (false), axis (absent).
    Gradient:
        none; the layer stops it.
    ONNX:
        ArgMax with select_last_index for one position; else TopK of the reversed axis.
    Caffe source:
        argmax_layer.cpp
    Differences:
        a backward pass through it stops there; Caffe aborts.
    """

    param_field = "argmax_param"
    differentiable = False

    def configure(self) -> None:
        """Check top_k."""
        if self.p.top_k < 1:
            self.fail("top_k is 0; give 1 or more.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """See the class."""
        shape, top_k = tuple(shapes[0]), int(self.p.top_k)
        if self.p.has("axis"):
            axis = self.axis(int(self.p.axis), shape)
            size, top = shape[axis], (*shape[:axis], top_k, *shape[axis + 1 :])
        else:
            if not shape:
                self.fail("bottom shape () has no batch axis.")
            ones = (1,) * max(0, len(shape) - 3)
            size, top = math.prod(shape[1:]), (shape[0], 1 + self.p.out_max_val, top_k, *ones)
        if top_k > size:
            self.fail(f"top_k {top_k} is more than the {size} values of bottom shape {shape}.")
        return [top]

    def forward(self, x: Tensor) -> Tensor:
        """Sort the reversed axis stably, so that of equal values the last comes first."""
        top = self.infer([tuple(x.shape)])[0]
        axis = self.axis(int(self.p.axis), tuple(x.shape)) if self.p.has("axis") else 1
        source = x if self.p.has("axis") else x.reshape(x.shape[0], math.prod(x.shape[1:]))
        values, order = torch.sort(source.flip(axis), dim=axis, descending=True, stable=True)
        values = values.narrow(axis, 0, self.p.top_k)
        found = (source.shape[axis] - 1 - order.narrow(axis, 0, self.p.top_k)).to(x.dtype)
        if not self.p.out_max_val:
            return found.reshape(top)
        return values if self.p.has("axis") else torch.cat([found, values], 1).reshape(top)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """ArgMax, or TopK of the reversed axis."""
        shape, top_k = e.shape(bottoms[0]), int(self.p.top_k)
        whole = not self.p.has("axis")
        axis = 1 if whole else self.axis(int(self.p.axis), shape)
        size = math.prod(shape[1:]) if whole else shape[axis]
        source = e.op("Flatten", bottoms, axis=1)[0] if whole else bottoms[0]
        if top_k == 1 and not self.p.out_max_val:
            (index,) = e.op("ArgMax", [source], axis=axis, keepdims=1, select_last_index=1)
            (found,) = e.op("Cast", [index], 1 if whole else tops, to=_FLOAT)
            if whole:
                e.reshape(found, e.shape(tops[0]), tops[0])
            return
        reverse = [
            e.constant(np.array([v], np.int64), hint)
            for v, hint in ((-1, "start"), (_BEFORE_ALL, "end"), (axis, "axis"), (-1, "step"))
        ]
        (turned,) = e.op("Slice", [source, *reverse])
        only_values = self.p.out_max_val and not whole
        values, order = e.op(
            "TopK", [turned, e.constant(np.array([top_k], np.int64), "top_k")],
            [tops[0], f"{tops[0]}/order"] if only_values else 2, axis=axis,
        )  # fmt: skip
        if only_values:
            return
        (index,) = e.op("Sub", [e.constant(np.array(size - 1, np.int64), "last"), order])
        (found,) = e.op("Cast", [index], 1 if whole else tops, to=_FLOAT)
        if whole and self.p.out_max_val:
            (found,) = e.op("Concat", [found, values], axis=1)
        if whole:
            e.reshape(found, e.shape(tops[0]), tops[0])
