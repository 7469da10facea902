"""ROIPooling: the maximum in each bin of boxes on a map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.errors import DataError
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register

#: First opset whose MaxRoiPool onnxruntime does not implement.
_WITHOUT_RUNTIME = 22


def _round(values: np.ndarray) -> np.ndarray:
    """C's round: half away from zero."""
    return (np.sign(values) * np.floor(np.abs(values) + np.float32(0.5))).astype(np.int64)


def _edges(start: int, end: int, bins: int, size: int) -> list[tuple[int, int]]:
    """First and past-the-last pixel of each bin of a span, clipped to the map."""
    length = np.float32(max(end - start + 1, 1))
    width = length / np.float32(bins)
    numbers = np.arange(bins + 1, dtype=np.float32)
    first = np.floor(numbers[:-1] * width).astype(np.int64) + start
    last = np.ceil(numbers[1:] * width).astype(np.int64) + start
    return list(zip(first.clip(0, size).tolist(), last.clip(0, size).tolist(), strict=True))


@register("ROIPooling")
class ROIPooling(Layer):
    """Maximum of a map in pooled_h x pooled_w bins of each region of interest.

    A region covers the pixels round(x1 scale)..round(x2 scale), both included, halves rounded
    away from zero. Bins may overlap by a pixel; an empty one (outside the map) gives 0.

    Bottoms:
        x: (N, C, H, W).
        rois: (R, 5) or with further axes of size 1: image index, x1, y1, x2, y2.
    Tops:
        y: (R, C, pooled_h, pooled_w).
    Parameters:
        pooled_h, pooled_w, spatial_scale (1): from the boxes' pixels to the map's.
    Gradient:
        to the first maximum of each bin; none for rois.
    ONNX:
        MaxRoiPool up to opset 21 (the standard leaves rounding to the runtime; onnxruntime's is
        the same). Refused from opset 22 on, whose MaxRoiPool onnxruntime does not have.
    Caffe source:
        roi_pooling_layer.cpp of Fast R-CNN
    Differences:
        none.
    """

    param_field = "roi_pooling_param"
    bottoms = exactly(2)
    no_gradient_bottoms = (1,)

    def configure(self) -> None:
        """Check the number of bins."""
        if self.p.pooled_h < 1 or self.p.pooled_w < 1:
            self.fail(
                f"pooled_h {self.p.pooled_h} and pooled_w {self.p.pooled_w} must be positive."
            )

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """One stack of bins for each region."""
        x, rois = tuple(shapes[0]), tuple(shapes[1])
        if len(x) != 4 or len(rois) < 2 or rois[1] != 5 or any(size != 1 for size in rois[2:]):
            self.fail(
                f"bottoms of shapes {x} and {rois} must be a map (N, C, H, W) and regions (R, 5)."
            )
        return [(rois[0], x[1], int(self.p.pooled_h), int(self.p.pooled_w))]

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        """Pool each region."""
        table = rois.detach().reshape(-1, 5).cpu().numpy().astype(np.float32)
        images = table[:, 0].astype(np.int64)
        if len(images) and not 0 <= images.min() <= images.max() < x.shape[0]:
            raise DataError(
                f"{self.spec.label()}: a region names image {images.min()} or {images.max()}, "
                f"but the map has images 0 to {x.shape[0] - 1}."
            )
        corners = _round(table[:, 1:] * np.float32(self.p.spatial_scale))
        pooled = [
            self.pool(x[int(image)], box)
            for image, box in zip(images, corners.tolist(), strict=True)
        ]
        size = (0, x.shape[1], int(self.p.pooled_h), int(self.p.pooled_w))
        return torch.stack(pooled) if pooled else x.new_zeros(size)

    def pool(self, plane: Tensor, box: list[int]) -> Tensor:
        """Bins (C, pooled_h, pooled_w) of one region x1, y1, x2, y2 on a map (C, H, W)."""
        x1, y1, x2, y2 = box
        columns = _edges(x1, x2, int(self.p.pooled_w), plane.shape[2])
        lines = []
        for top, bottom in _edges(y1, y2, int(self.p.pooled_h), plane.shape[1]):
            cells = []
            for left, right in columns:
                if bottom <= top or right <= left:
                    cells.append(plane.new_zeros(plane.shape[0]))
                else:
                    cells.append(plane[:, top:bottom, left:right].flatten(1).max(1).values)
            lines.append(torch.stack(cells, 1))
        return torch.stack(lines, 1)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """MaxRoiPool, whose runtimes round and bin as Fast R-CNN does."""
        if e.opset >= _WITHOUT_RUNTIME:
            self.refuse(
                f"needs MaxRoiPool, which onnxruntime has not got from opset {_WITHOUT_RUNTIME} "
                f"on; export with opset {_WITHOUT_RUNTIME - 1} or older."
            )
        rois = bottoms[1]
        if len(e.shape(rois)) > 2:
            (rois,) = e.op("Flatten", [rois], axis=1)
        e.op(
            "MaxRoiPool", [bottoms[0], rois], tops,
            pooled_shape=[int(self.p.pooled_h), int(self.p.pooled_w)],
            spatial_scale=float(self.p.spatial_scale),
        )  # fmt: skip
