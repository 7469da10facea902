"""Proposal: from a region proposal network's scores and deltas to regions of interest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, between, exactly
from caffe_bridge.layers.box import suppress
from caffe_bridge.layers.loss import FLOAT, scalar
from caffe_bridge.layers.registry import register

_RATIOS, _SCALES = (0.5, 1.0, 2.0), (8.0, 16.0, 32.0)
_FLOAT_MAX = float(np.finfo(np.float32).max)


def base_anchors(size: int, ratios: Sequence[float], scales: Sequence[float]) -> np.ndarray:
    """Anchors (A, 4) around the square (0, 0, size - 1, size - 1), in pixels, ratios first.

    For a ratio r the width is round(size / sqrt(r)) and the height round(width r), both times the
    scale; a box from x1 to x2 is x2 - x1 + 1 wide.
    """
    sides = []
    for ratio in ratios:
        width = math.floor(size / math.sqrt(ratio) + 0.5)
        sides += [(width * scale, math.floor(width * ratio + 0.5) * scale) for scale in scales]
    half = (np.array(sides) - 1) / 2
    middle = (size - 1) / 2
    return np.concatenate([middle - half, middle + half], 1)


@register("Proposal")
class Proposal(Layer):
    """Move and stretch the anchors of all cells, clip, drop small and overlapping ones.

    An anchor of width w and centre c becomes ``c + dx w -+ exp(dw) w / 2`` (rows alike), clipped
    to the image. Boxes with a side below ``min_size`` times the image's scale are dropped, of the
    others the best pre_nms_topn go through non-maximum suppression, which leaves post_nms_topn.
    Widths are x2 - x1 + 1.

    Bottoms:
        scores: (N, 2 A, H, W), background first, for the A anchors of each cell.
        deltas: (N, 4 A, H, W): dx, dy, dw, dh of each anchor.
        info: (N, 3): height, width and scale of each image; or (N, 4), scales of x and y.
    Tops:
        rois: (R, 5): image index, x1, y1, x2, y2 in pixels, by image and falling score; the
        declared R is N.
        scores (optional): (R, 1).
    Parameters:
        feat_stride (16), base_size (16), min_size (16) in pixels; ratio (0.5, 1, 2), scale (8,
        16, 32); pre_nms_topn (6000), post_nms_topn (300): 0 for all; nms_thresh (0.7).
    Gradient:
        none.
    ONNX:
        TopK, NonMaxSuppression, GatherND.
    Caffe source:
        rpn/proposal_layer.py and generate_anchors.py of py-faster-rcnn; proposal_layer.cpp of
        its C++ forks
    Differences:
        takes several images, too; regions of equal score stay in the order of cells and anchors.
    """

    param_field = "proposal_param"
    bottoms = exactly(3)
    tops = between(1, 2)
    differentiable = False
    no_gradient_bottoms = (0, 1, 2)
    open_axis = 0

    def configure(self) -> None:
        """List the anchors."""
        ratios = [float(value) for value in self.p.ratio] or list(_RATIOS)
        scales = [float(value) for value in self.p.scale] or list(_SCALES)
        self.stride, self.least = int(self.p.feat_stride), float(self.p.min_size)
        size = int(self.p.base_size)
        if min(*ratios, *scales, self.stride, size) <= 0:
            self.fail(
                f"ratio {ratios}, scale {scales}, feat_stride {self.stride} and base_size {size} "
                "must be positive."
            )
        self.base = base_anchors(size, ratios, scales)
        self.before = int(self.p.pre_nms_topn) or -1
        self.after = int(self.p.post_nms_topn) or -1
        self.threshold = float(self.p.nms_thresh)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """A region for each image; how many there are is not known."""
        scores, deltas, info = (tuple(shape) for shape in shapes)
        count = len(self.base)
        if (
            len(scores) != 4
            or scores[1] != 2 * count
            or deltas != (scores[0], 4 * count, *scores[2:])
            or info not in [(scores[0], 3), (scores[0], 4)]
        ):
            self.fail(
                f"bottoms of shapes {scores}, {deltas} and {info} do not fit: for {count} anchors "
                f"a cell give scores (N, {2 * count}, H, W), deltas (N, {4 * count}, H, W) and "
                "image sizes (N, 3)."
            )
        return [(scores[0], width) for width in (5, 1)[: len(self.spec.tops)]]

    def anchors(self, height: int, width: int) -> np.ndarray:
        """Anchors (H W A, 4) of all cells: x1, y1, x2, y2 in pixels."""
        y, x = np.mgrid[:height, :width] * self.stride
        shifts = np.stack([x, y, x, y], -1)[:, :, None]
        return (shifts + self.base).reshape(-1, 4)

    def forward(self, scores: Tensor, deltas: Tensor, info: Tensor) -> list[Tensor]:
        """Regions of all images."""
        number, _, height, width = scores.shape
        values = scores[:, len(self.base) :].permute(0, 2, 3, 1).reshape(number, -1)
        moves = deltas.permute(0, 2, 3, 1).reshape(number, -1, 4)
        anchors = torch.from_numpy(self.anchors(height, width)).to(moves)
        size = anchors[:, 2:] - anchors[:, :2] + 1
        centre = moves[..., :2] * size + anchors[:, :2] + size / 2
        half = moves[..., 2:].exp() * size / 2
        limit = info[:, None, [1, 0]] - 1
        zero = limit.new_zeros(())
        low = torch.minimum(centre - half, limit).maximum(zero)
        high = torch.minimum(centre + half, limit).maximum(zero)
        large = (high - low + 1 >= self.least * info[:, None, 2:]).all(-1)
        rois, kept_scores = [], []
        for image in range(number):
            fit = large[image]
            own = torch.cat([low[image, fit], high[image, fit]], 1)
            places = self.choose(own.cpu().numpy(), values[image, fit].cpu().numpy())
            index = torch.from_numpy(places).to(own.device)
            rois.append(torch.cat([own.new_full((len(index), 1), image), own[index]], 1))
            kept_scores.append(values[image, fit][index, None])
        return [torch.cat(rois), torch.cat(kept_scores)][: len(self.spec.tops)]

    def choose(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Indices of the boxes that remain; their last pixels count for the overlap."""
        whole = boxes + np.array([0, 0, 1, 1], boxes.dtype)
        return suppress(
            whole, scores, -np.inf, self.threshold, top_k=self.before, most=self.after
        )  # fmt: skip

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Decode, keep the best, suppress and join the rows."""
        low, high, scores = self.emit_boxes(e, *bottoms)
        (boxes,) = e.op("Concat", [low, high], axis=2)
        count = math.prod(e.shape(bottoms[0])[2:]) * len(self.base)
        best = count if self.before < 0 else min(self.before, count)
        scores, places = e.op("TopK", [scores, _ints(e, [best], "pre_nms_topn")], 2, axis=1)
        (places,) = e.op("Unsqueeze", [places, _ints(e, [2], "last")])
        (boxes,) = e.op("GatherND", [boxes, places], batch_dims=1)
        last = np.array([0, 0, 1, 1], np.float32)
        (whole,) = e.op("Add", [boxes, e.constant(last, "last_pixel")])
        (each,) = e.op("Unsqueeze", [scores, _ints(e, [1], "one")])
        limits = [
            _ints(e, [best if self.after < 0 else self.after], "post_nms_topn"),
            e.constant(np.array([self.threshold], np.float32), "nms_thresh"),
            e.constant(np.array([-_FLOAT_MAX], np.float32), "all"),
        ]
        (chosen,) = e.op("NonMaxSuppression", [whole, each, *limits])
        image, _, place = e.op("Split", [chosen, _ints(e, [1, 1, 1], "thirds")], 3, axis=1)
        (place,) = e.op("Concat", [image, place], axis=1)
        if len(tops) > 1:
            (kept,) = e.op("GatherND", [scores, place])
            e.op("Unsqueeze", [kept, _ints(e, [1], "one")], [tops[1]])
        (corners,) = e.op("GatherND", [boxes, place])
        (image,) = e.op("Cast", [image], to=FLOAT)
        e.op("Concat", [image, corners], [tops[0]], axis=1)

    def emit_boxes(self, e: Emitter, scores: str, deltas: str, info: str) -> tuple[str, str, str]:
        """Corners (N, K, 2) twice and scores (N, K), -inf for boxes that are too small."""
        count, columns = len(self.base), e.shape(info)[1]
        anchors = self.anchors(*e.shape(scores)[2:]).astype(np.float32)
        size = anchors[:, 2:] - anchors[:, :2] + 1
        (scores,) = e.op("Split", [scores, _ints(e, [count, count], "halves")], 2, axis=1)[1:]
        (scores,) = e.op("Transpose", [scores], perm=[0, 2, 3, 1])
        (scores,) = e.op("Reshape", [scores, _ints(e, [0, -1], "scores")])
        (moves,) = e.op("Transpose", [deltas], perm=[0, 2, 3, 1])
        (moves,) = e.op("Reshape", [moves, _ints(e, [0, -1, 4], "deltas")])
        shift, ratio = e.op("Split", [moves, _ints(e, [2, 2], "corners")], 2, axis=2)
        (shift,) = e.op("Mul", [shift, e.constant(size, "sizes")])
        centre = e.constant(anchors[:, :2] + size / 2, "centres")
        (centre,) = e.op("Add", [shift, centre])
        (half,) = e.op("Exp", [ratio])
        (half,) = e.op("Mul", [half, e.constant(size / 2, "halves")])
        (limit,) = e.op("Gather", [info, _ints(e, [1, 0], "width_height")], axis=1)
        (limit,) = e.op("Sub", [limit, scalar(e, 1.0, "one_pixel")])
        (limit,) = e.op("Unsqueeze", [limit, _ints(e, [1], "one")])
        corners = []
        for kind in ("Sub", "Add"):
            (corner,) = e.op(kind, [centre, half])
            (corner,) = e.op("Min", [corner, limit])
            corners += e.op("Max", [corner, scalar(e, 0.0, "zero")])
        (sides,) = e.op("Sub", [corners[1], corners[0]])
        (sides,) = e.op("Add", [sides, scalar(e, 1.0, "one_pixel")])
        (least,) = e.op("Gather", [info, _ints(e, [2, columns - 1], "scales")], axis=1)
        (least,) = e.op("Mul", [least, scalar(e, self.least, "min_size")])
        (least,) = e.op("Unsqueeze", [least, _ints(e, [1], "one")])
        (spare,) = e.op("Sub", [sides, least])
        spare = e.reduce("ReduceMin", spare, [2], keepdims=False)
        (large,) = e.op("GreaterOrEqual", [spare, scalar(e, 0.0, "zero")])
        (scores,) = e.op("Where", [large, scores, scalar(e, -np.inf, "never")])
        return corners[0], corners[1], scores


def _ints(e: Emitter, value: object, hint: str) -> str:
    return e.constant(np.array(value, np.int64), hint)
