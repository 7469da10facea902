"""PSROIPooling: means of regions, each bin from its own group of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.errors import DataError
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.loss import FLOAT, scalar
from caffe_bridge.layers.registry import register

#: Least width and height of a region on the map, in pixels.
_LEAST = 0.1


def _rounded(values: Tensor) -> Tensor:
    """C's round: half away from zero."""
    return values.sign() * (values.abs() + 0.5).floor()


def _shares(start: Tensor, end: Tensor, bins: int, length: int) -> Tensor:
    """(R, bins, length): one over the bin's pixels for each pixel in it along one axis, else 0."""
    width = (end - start).clamp(min=_LEAST) / bins
    numbers = torch.arange(bins + 1, device=start.device, dtype=start.dtype)
    first = (numbers[:-1] * width[:, None] + start[:, None]).floor()[..., None]
    last = (numbers[1:] * width[:, None] + start[:, None]).ceil()[..., None]
    places = torch.arange(length, device=start.device, dtype=start.dtype)
    inside = ((places >= first) & (places < last)).to(start.dtype)
    return inside / inside.sum(-1, keepdim=True).clamp(min=1)


@register("PSROIPooling")
class PSROIPooling(Layer):
    """Mean of the map in G x G bins of each region; bin (i, j) of output d reads channel (d, i, j).

    On one axis a region lies from ``round(x1) s`` to ``(round(x2) + 1) s`` (halves rounded away
    from zero) and is at least 0.1 long; bin i has the pixels from the floor of its start to
    before the ceiling of its end, clipped to the map. An empty bin gives 0.

    Bottoms:
        x: (N, D G G, H, W).
        rois: (R, 5) or with further axes of size 1: image index, x1, y1, x2, y2.
    Tops:
        y: (R, D, G, G).
    Parameters:
        spatial_scale s: from the boxes' pixels to the map's; output_dim D; group_size G.
    Gradient:
        none for rois.
    ONNX:
        comparisons make the weights of pixels in bins, MatMul sums.
    Caffe source:
        psroi_pooling_layer.cu of R-FCN
    Differences:
        none.
    """

    param_field = "psroi_pooling_param"
    bottoms = exactly(2)
    no_gradient_bottoms = (1,)

    def configure(self) -> None:
        """Check the parameters."""
        self.outputs, self.bins = int(self.p.output_dim), int(self.p.group_size)
        self.factor = float(self.p.spatial_scale)
        if self.outputs < 1 or self.bins < 1 or not self.factor > 0:
            self.fail(
                f"output_dim {self.outputs}, group_size {self.bins} and spatial_scale "
                f"{self.factor:g} must be given and positive."
            )

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """One stack of bins for each region."""
        x, rois = tuple(shapes[0]), tuple(shapes[1])
        channels = self.outputs * self.bins**2
        if len(x) != 4 or x[1] != channels or not rois or math.prod(rois[1:]) != 5:
            self.fail(
                f"bottoms of shapes {x} and {rois} must be a map (N, {channels}, H, W), for "
                f"output_dim {self.outputs} times group_size {self.bins} squared, and regions "
                "(R, 5)."
            )
        return [(rois[0], self.outputs, self.bins, self.bins)]

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        """Weigh the pixels of each region."""
        table = rois.detach().reshape(-1, 5).to(x.dtype)
        images = table[:, 0].long().tolist()
        wrong = [image for image in images if not 0 <= image < x.shape[0]]
        if wrong:
            raise DataError(
                f"{self.spec.label()}: a region names image {wrong[0]}, but the map has images 0 "
                f"to {x.shape[0] - 1}."
            )
        corners = _rounded(table[:, 1:])
        start, end = corners[:, :2] * self.factor, (corners[:, 2:] + 1) * self.factor
        columns = _shares(start[:, 0], end[:, 0], self.bins, x.shape[3])
        lines = _shares(start[:, 1], end[:, 1], self.bins, x.shape[2])
        grid = x.reshape(x.shape[0], self.outputs, self.bins, self.bins, *x.shape[2:])
        pooled = [
            torch.einsum("dijyx,iy,jx->dij", grid[image], line, column)
            for image, line, column in zip(images, lines, columns, strict=True)
        ]
        return torch.stack(pooled) if pooled else x.new_zeros(0, *grid.shape[1:4])

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """For each bin a matrix (R, N H W) of weights, times the bin's channels (N H W, D)."""
        height, width = e.shape(bottoms[0])[2:]
        (table,) = e.op("Reshape", [bottoms[1], _ints(e, [-1, 5], "rows")])
        parts = _ints(e, [1, 1, 1, 1, 1], "parts")
        (table,) = e.op("Transpose", [table], perm=[1, 0])
        image, *sides = e.op("Split", [table, parts], 5, axis=0)
        left, top, right, bottom = (self.emit_round(e, side) for side in sides)
        columns = self.emit_shares(e, left, right, width)
        lines = self.emit_shares(e, top, bottom, height)
        (columns,) = e.op("Unsqueeze", [columns, _ints(e, [0, 3, 4], "column")])
        (lines,) = e.op("Unsqueeze", [lines, _ints(e, [1, 3, 5], "line")])
        (weights,) = e.op("Mul", [lines, columns])
        (weights,) = e.op("Mul", [weights, self.emit_images(e, bottoms[0], image)])
        cells = self.bins**2
        (shape,) = e.op("Shape", [weights])
        (number,) = e.op("Gather", [shape, _ints(e, [2], "regions")])
        wanted = [_ints(e, [cells], "cells"), number, _ints(e, [-1], "pixels")]
        (target,) = e.op("Concat", wanted, axis=0)
        (weights,) = e.op("Reshape", [weights, target])
        grid = [0, self.outputs, cells, height * width]
        (pixels,) = e.op("Reshape", [bottoms[0], _ints(e, grid, "grid")])
        (pixels,) = e.op("Transpose", [pixels], perm=[2, 0, 3, 1])
        (pixels,) = e.op("Reshape", [pixels, _ints(e, [cells, -1, self.outputs], "matrices")])
        (sums,) = e.op("MatMul", [weights, pixels])
        (sums,) = e.op("Transpose", [sums], perm=[1, 2, 0])
        shape_out = [-1, self.outputs, self.bins, self.bins]
        e.op("Reshape", [sums, _ints(e, shape_out, "bins")], [tops[0]])

    def emit_round(self, e: Emitter, value: str) -> str:
        """Half away from zero."""
        (sign,) = e.op("Sign", [value])
        (size,) = e.op("Abs", [value])
        (size,) = e.op("Add", [size, scalar(e, 0.5, "half")])
        (size,) = e.op("Floor", [size])
        return e.op("Mul", [sign, size])[0]

    def emit_shares(self, e: Emitter, start: str, end: str, length: int) -> str:
        """Weights (G, R, length) of the pixels in each bin along one axis, from rows (1, R)."""
        factor, one = scalar(e, self.factor, "spatial_scale"), scalar(e, 1.0, "one")
        (start,) = e.op("Mul", [start, factor])
        (end,) = e.op("Add", [end, one])
        (end,) = e.op("Mul", [end, factor])
        (width,) = e.op("Sub", [end, start])
        (width,) = e.op("Max", [width, scalar(e, _LEAST, "least")])
        (width,) = e.op("Div", [width, scalar(e, self.bins, "group_size")])
        numbers = np.arange(self.bins + 1, dtype=np.float32)[:, None]
        edges = []
        for values, kind in ((numbers[:-1], "Floor"), (numbers[1:], "Ceil")):
            (edge,) = e.op("Mul", [e.constant(values, "numbers"), width])
            (edge,) = e.op("Add", [edge, start])
            (edge,) = e.op(kind, [edge])
            edges += e.op("Unsqueeze", [edge, _ints(e, [2], "axis")])
        places = e.constant(np.arange(length, dtype=np.float32), "places")
        (reached,) = e.op("GreaterOrEqual", [places, edges[0]])
        (short,) = e.op("Less", [places, edges[1]])
        (inside,) = e.op("And", [reached, short])
        (inside,) = e.op("Cast", [inside], to=FLOAT)
        count = e.reduce("ReduceSum", inside, [2])
        (count,) = e.op("Max", [count, one])
        return e.op("Div", [inside, count])[0]

    def emit_images(self, e: Emitter, x: str, image: str) -> str:
        """(R, N, 1, 1): 1 where a region is in an image, else 0; from a row (1, R) of indices."""
        (shape,) = e.op("Shape", [x])
        (number,) = e.op("Gather", [shape, _ints(e, 0, "first")])
        (images,) = e.op("Range", [_ints(e, 0, "first"), number, _ints(e, 1, "next")])
        (images,) = e.op("Cast", [images], to=FLOAT)
        (column,) = e.op("Transpose", [image], perm=[1, 0])
        (own,) = e.op("Equal", [column, images])
        (own,) = e.op("Cast", [own], to=FLOAT)
        return e.op("Unsqueeze", [own, _ints(e, [2, 3], "plane")])[0]


def _ints(e: Emitter, value: object, hint: str) -> str:
    return e.constant(np.array(value, np.int64), hint)
