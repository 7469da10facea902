"""ROIAlign: bilinear samples of regions, averaged in bins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register

_INT64 = 7


def _line(start: Tensor, size: Tensor, bins: int, samples: int, length: int) -> Tensor:
    """(bins, length) weights of a bin's mean sample on the pixels of one axis.

    Samples more than one pixel outside count as 0, those less far take the border's pixel.
    """
    step = size / (bins * samples)
    places = start + (torch.arange(bins * samples, device=start.device) + 0.5) * step
    inside = ((places >= -1) & (places <= length)).to(start.dtype)
    places = places.clamp(0, length - 1)
    low = places.floor().long()
    high = (low + 1).clamp(max=length - 1)
    part = places - low
    weights = start.new_zeros(bins * samples, length)
    weights.scatter_add_(1, low[:, None], ((1 - part) * inside)[:, None])
    weights.scatter_add_(1, high[:, None], (part * inside)[:, None])
    return weights.reshape(bins, samples, length).mean(1)


@register("ROIAlign")
class ROIAlign(Layer):
    """Mean of bilinear samples in the bins of each region, without rounding its borders.

    A region of width ``max(spatial_scale (x2 - x1), 1)`` is cut into pooled_w bins, each with
    sampling_ratio samples (-1: as many as the bin has pixels, rounded up), evenly spread; rows
    alike.

    Bottoms:
        x: (N, C, H, W).
        rois: (R, 5) or (R, 5, 1, 1), rows [item, x1, y1, x2, y2] in pixels of the input image.
    Tops:
        y: (R, C, pooled_h, pooled_w).
    Parameters:
        pooled_h, pooled_w: required; spatial_scale (1), sampling_ratio (-1; also sample_ratio).
    Gradient:
        none for the regions.
    ONNX:
        RoiAlign (avg), Gather and Cast for the items.
    Caffe source:
        roi_align_layer.cpp of the Mask R-CNN forks
    Differences:
        forks that take maxima of samples (parameters in ``roi_pooling_param``) differ among each
        other and are refused.
    """

    param_field = "roi_align_param"
    bottoms = exactly(2)
    no_gradient_bottoms = (1,)

    def configure(self) -> None:
        """Check the parameters."""
        if self.spec.record.has("roi_pooling_param"):
            self.fail(
                "roi_pooling_param means a fork that takes maxima, which is not supported; give "
                "roi_align_param."
            )
        self.bins = (int(self.p.pooled_h), int(self.p.pooled_w))
        if min(self.bins) < 1:
            self.fail(f"pooled_h and pooled_w are {self.bins}; give both, positive.")
        other = self.p.has("sample_ratio") and not self.p.has("sampling_ratio")
        self.samples = int(self.p.sample_ratio if other else self.p.sampling_ratio)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Bins of every region."""
        image, regions = tuple(shapes[0]), tuple(shapes[1])
        if len(image) != 4:
            self.fail(f"takes a bottom with 4 axes (N, C, H, W), found shape {image}.")
        if not regions or math.prod(regions[1:]) != 5:
            self.fail(f"regions of shape {regions} must have 5 numbers each: item, x1, y1, x2, y2.")
        return [(regions[0], image[1], *self.bins)]

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        """Sample region by region: rows and columns are weights on the image's."""
        rows = rois.detach().reshape(-1, 5).to(x.dtype)
        tops = []
        for region in rows:
            item = int(region[0])
            if not 0 <= item < x.shape[0]:
                self.fail(f"a region names item {item} of a batch of {x.shape[0]}.")
            left, top, right, bottom = region[1:] * self.p.spatial_scale
            lines = []
            for start, end, bins, length in (
                (top, bottom, self.bins[0], x.shape[2]),
                (left, right, self.bins[1], x.shape[3]),
            ):
                size = (end - start).clamp(min=1.0)
                samples = self.samples if self.samples > 0 else math.ceil(float(size) / bins)
                lines.append(_line(start, size, bins, samples, length))
            tops.append(lines[0] @ x[item] @ lines[1].mT)
        return torch.stack(tops) if tops else x.new_zeros(0, x.shape[1], *self.bins)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """RoiAlign."""
        rows = e.constant(np.array([-1, 5], np.int64), "rows")
        (table,) = e.op("Reshape", [bottoms[1], rows])
        (items,) = e.op("Gather", [table, e.constant(np.array(0, np.int64), "item")], axis=1)
        (items,) = e.op("Cast", [items], to=_INT64)
        corners = e.constant(np.array([1, 2, 3, 4], np.int64), "corners")
        (boxes,) = e.op("Gather", [table, corners], axis=1)
        e.op(
            "RoiAlign", [bottoms[0], boxes, items], tops, mode="avg",
            output_height=self.bins[0], output_width=self.bins[1],
            sampling_ratio=max(self.samples, 0), spatial_scale=float(self.p.spatial_scale),
            coordinate_transformation_mode="output_half_pixel" if e.opset >= 16 else None,
        )  # fmt: skip
