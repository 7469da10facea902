"""PriorBox: the default boxes of a single-shot detector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register

#: Aspect ratios that differ by less are the same.
_SAME = 1e-6
_VARIANCE = 0.1


@register("PriorBox")
class PriorBox(Layer):
    """Default boxes around each cell of a map, as corners relative to the image.

    A cell (i, j) has its centre at ((j + offset) step_w, (i + offset) step_h) pixels. For each
    min_size m: a square of side m; with max_size M a square of side sqrt(m M); for each aspect
    ratio r but 1 a box of width m sqrt(r) and height m / sqrt(r).

    Bottoms:
        x: (N, C, H, W), only its shape counts.
        image: (N, C, H, W), only its shape counts.
    Tops:
        boxes: (1, 2, 4 P) for the P boxes of all cells: row 0 has xmin, ymin, xmax, ymax of each,
        row 1 their variances.
    Parameters:
        min_size, max_size (none, or one larger than each min_size); aspect_ratio: 1 is always
        there; flip (true): also 1 / aspect_ratio; clip (false): to 0..1; variance (0.1): one or
        four; img_size, img_h, img_w: else the image's; step, step_h, step_w: else image / map;
        offset (0.5).
    Gradient:
        none.
    ONNX:
        a constant.
    Caffe source:
        prior_box_layer.cpp of weiliu89/caffe, branch ssd
    Differences:
        sizes with a fraction keep it, as in OpenCV and in the trainers that write such sizes;
        SSD's own code truncates them to whole pixels.
    """

    param_field = "prior_box_param"
    bottoms = exactly(2)
    differentiable = False
    no_gradient_bottoms = (0, 1)

    def configure(self) -> None:
        """Check sizes and variances, list the aspect ratios."""
        self.small = [float(size) for size in self.p.min_size]
        self.large = [float(size) for size in self.p.max_size]
        if not self.small or min(self.small) <= 0:
            self.fail(f"min_size is {self.small}; give one or more positive numbers.")
        if self.large and (
            len(self.large) != len(self.small)
            or any(b <= a for a, b in zip(self.small, self.large, strict=True))
        ):
            self.fail(f"max_size {self.large} must have a larger number for each {self.small}.")
        self.ratios = [1.0]
        for ratio in self.p.aspect_ratio:
            if ratio <= 0:
                self.fail(f"aspect_ratio {ratio} must be positive.")
            if all(abs(ratio - known) >= _SAME for known in self.ratios):
                self.ratios += [float(ratio), 1 / float(ratio)] if self.p.flip else [float(ratio)]
        given = [float(value) for value in self.p.variance] or [_VARIANCE]
        if len(given) not in (1, 4) or min(given) <= 0:
            self.fail(f"variance is {given}; give one or four positive numbers.")
        self.variances = given * 4 if len(given) == 1 else given

    def pair(self, name: str) -> tuple[float, float]:
        """Height and width of ``img`` or ``step``, 0 where not given."""
        both = "img_size" if name == "img" else name
        split = self.p.has(f"{name}_h") or self.p.has(f"{name}_w")
        if split and self.p.has(both):
            self.fail(f"gives both {both} and {name}_h / {name}_w; keep one.")
        if split:
            return float(getattr(self.p, f"{name}_h")), float(getattr(self.p, f"{name}_w"))
        return float(getattr(self.p, both)), float(getattr(self.p, both))

    def shapes_of_cell(self) -> np.ndarray:
        """Widths and heights (boxes, 2) of the boxes of one cell, in pixels."""
        sizes = []
        for position, small in enumerate(self.small):
            sizes.append((small, small))
            if self.large:
                side = math.sqrt(small * self.large[position])
                sizes.append((side, side))
            sizes += [
                (small * math.sqrt(ratio), small / math.sqrt(ratio))
                for ratio in self.ratios
                if abs(ratio - 1) >= _SAME
            ]
        return np.array(sizes, np.float32)

    def boxes(self, shape: Shape, image: Shape) -> np.ndarray:
        """The top's values (1, 2, 4 P) for the shapes of the bottoms."""
        img_h, img_w = self.pair("img")
        if not img_h or not img_w:
            img_h, img_w = float(image[2]), float(image[3])
        step_h, step_w = self.pair("step")
        if not step_h or not step_w:
            step_h, step_w = img_h / shape[2], img_w / shape[3]
        offset = float(self.p.offset)
        half = self.shapes_of_cell() / np.float32(2)
        y = ((np.arange(shape[2], dtype=np.float32) + offset) * step_h)[:, None, None]
        x = ((np.arange(shape[3], dtype=np.float32) + offset) * step_w)[None, :, None]
        corners = np.empty((shape[2], shape[3], len(half), 4), np.float32)
        corners[..., 0] = (x - half[:, 0]) / img_w
        corners[..., 1] = (y - half[:, 1]) / img_h
        corners[..., 2] = (x + half[:, 0]) / img_w
        corners[..., 3] = (y + half[:, 1]) / img_h
        if self.p.clip:
            corners = corners.clip(0, 1)
        variances = np.broadcast_to(np.array(self.variances, np.float32), corners.shape)
        return np.stack([corners.reshape(-1), variances.reshape(-1)])[None]

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """(1, 2, 4 P)."""
        if any(len(shape) != 4 for shape in shapes):
            self.fail(
                f"bottoms of shapes {tuple(shapes[0])} and {tuple(shapes[1])} must both be "
                "(N, C, H, W)."
            )
        return [(1, 2, 4 * shapes[0][2] * shapes[0][3] * len(self.shapes_of_cell()))]

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """The boxes, which depend on shapes alone."""
        return torch.from_numpy(self.boxes(tuple(x.shape), tuple(image.shape))).to(x)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """The boxes as a constant."""
        values = self.boxes(e.shape(bottoms[0]), e.shape(bottoms[1]))
        e.op("Identity", [e.constant(values, "boxes")], tops)
