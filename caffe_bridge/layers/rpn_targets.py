"""The training targets of py-faster-rcnn, whose Python layers need no user's code here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.proposal import base_anchors
from caffe_bridge.layers.registry import register
from caffe_bridge.layers.rpn_proposal import read_settings

# Names as in fast_rcnn/config.py (TRAIN), values as faster_rcnn_end2end.yml sets them.
_RPN_POSITIVE_OVERLAP, _RPN_NEGATIVE_OVERLAP, _RPN_BATCHSIZE, _RPN_FG = 0.7, 0.3, 256, 128
_BATCH_SIZE, _FG_ROIS, _FG_THRESH, _BG_THRESH_HI = 128, 32, 0.5, 0.5
_STDS = (0.1, 0.1, 0.2, 0.2)
_BASE, _RATIOS, _SCALES = 16, (0.5, 1.0, 2.0), (8.0, 16.0, 32.0)


def overlaps(boxes: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union (K, G) of boxes (K, 4) and (G, 4), x2 - x1 + 1 wide."""
    low = torch.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    shared = (high - low + 1).clamp(min=0).prod(2)
    areas = [(b[:, 2:] - b[:, :2] + 1).prod(1) for b in (boxes, truth)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def deltas(boxes: Tensor, truth: Tensor) -> Tensor:
    """Shifts (K, 4) of the centres in sides, and logarithms of the sides' ratios."""
    size, goal = (b[:, 2:] - b[:, :2] + 1 for b in (boxes, truth))
    shift = (truth[:, :2] + goal / 2 - boxes[:, :2] - size / 2) / size
    return torch.cat([shift, (goal / size).log()], 1)


def draw(candidates: Tensor, count: int) -> Tensor:
    """At most ``count`` of the candidates, drawn without replacement."""
    if len(candidates) <= count:
        return candidates
    return candidates[torch.randperm(len(candidates), device=candidates.device)[:count]]


class _Targets(Layer):
    """Base of the two: settings, no gradient, no ONNX form."""

    param_field = "python_param"
    differentiable = False
    no_gradient_bottoms = (0, 1, 2, 3)
    known: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """The entries of ``param_str``, the first of which must be there."""
        try:
            found = read_settings(self.p.param_str)
        except (ValueError, SyntaxError):
            found = {}
        if self.known[0] not in found or not set(found) <= set(self.known):
            self.fail(
                f'param_str "{self.p.param_str}" must give {self.known[0]}, and nothing but '
                f"{' and '.join(self.known)}; allow Python layers to run your own class."
            )
        return found

    def check_truth(self, shape: Shape) -> None:
        """True boxes with their class."""
        if len(shape) != 2 or shape[1] != 5:
            self.fail(f"gt_boxes (bottom 1) has shape {shape}, expected (G, 5).")

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Not possible."""
        self.refuse("draws training examples by chance; export the net of the TEST phase.")


@register("rpn.anchor_target_layer.AnchorTargetLayer")
class AnchorTarget(_Targets):
    """Labels and targets of a region proposal network's anchors.

    Of the anchors inside the picture those that overlap a true box by 0.7, and the best ones of
    each true box, are objects (1); others that overlap none by 0.3 are background (0); all others
    are -1. Of both at most 256 stay, 128 objects at most, drawn by chance. A layer of type Python
    with this module and layer is this one unless Python layers are allowed; nothing is imported.

    Bottoms:
        scores: (1, 2 A, H, W), for the map's size only.
        gt_boxes: (G, 5): x1, y1, x2, y2, class; at least one.
        im_info: (1, 3): height, width and scale.
        data: the picture, without effect.
    Tops:
        labels: (1, 1, A H, W).
        targets: (1, 4 A, H, W): shifts to the true box that an anchor overlaps most; 0 for anchors
        that leave the picture.
        inside weights: (1, 4 A, H, W): 1 for objects.
        outside weights: (1, 4 A, H, W): 1 / number of objects and background, for these.
    Parameters:
        python_param.param_str: feat_stride in pixels; scales (8, 16, 32) of the anchors.
    Gradient:
        none.
    ONNX:
        refused.
    Caffe source:
        lib/rpn/anchor_target_layer.py, lib/fast_rcnn/config.py of rbgirshick/py-faster-rcnn
    Differences:
        the thresholds and counts are those of config.py, which a file given to its tools may
        change; the draws are torch's.
    """

    bottoms = exactly(4)
    tops = exactly(4)
    known = ("feat_stride", "scales")

    def configure(self) -> None:
        """List the anchors."""
        given = self.settings()
        try:
            self.stride = int(given["feat_stride"])
            scales = [float(scale) for scale in given.get("scales", _SCALES)]
        except (ValueError, TypeError):
            self.stride, scales = 0, []
        if self.stride < 1 or not scales or min(scales) <= 0:
            self.fail(f'param_str "{self.p.param_str}" needs positive feat_stride and scales.')
        self.base = base_anchors(_BASE, _RATIOS, scales)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Maps of the anchors."""
        scores, count = tuple(shapes[0]), len(self.base)
        self.check_truth(tuple(shapes[1]))
        if len(scores) != 4 or scores[:2] != (1, 2 * count) or tuple(shapes[2][:2]) != (1, 3):
            self.fail(
                f"bottoms of shapes {scores} and {tuple(shapes[2])} do not fit: for {count} "
                f"anchors a cell give scores (1, {2 * count}, H, W) and im_info (1, 3)."
            )
        _, _, height, width = scores
        return [(1, 1, count * height, width), *[(1, 4 * count, height, width)] * 3]

    def forward(self, scores: Tensor, truth: Tensor, info: Tensor, data: Tensor) -> list[Tensor]:
        """Label, draw, and put the rows back on the map."""
        height, width = scores.shape[2:]
        y, x = np.mgrid[:height, :width] * self.stride
        every = (np.stack([x, y, x, y], -1)[:, :, None] + self.base).reshape(-1, 4)
        anchors = torch.from_numpy(every).to(scores)
        size = info.reshape(-1)[[1, 0]]
        inside = ((anchors[:, :2] >= 0) & (anchors[:, 2:] < size)).all(1)
        own = anchors[inside]
        shares = overlaps(own, truth[:, :4])
        labels = self.draw_labels(shares).to(scores)
        goals = truth[shares.argmax(1), :4] if len(own) else own
        ones = torch.ones_like(own)
        share = (labels >= 0).sum().clamp(min=1)
        tables = [
            deltas(own, goals), ones * (labels == 1)[:, None], ones * (labels >= 0)[:, None] / share
        ]  # fmt: skip
        count = len(self.base)
        whole = scores.new_full((len(anchors),), -1.0)
        whole[inside] = labels
        tops = [whole.reshape(1, height, width, count).permute(0, 3, 1, 2)]
        tops[0] = tops[0].reshape(1, 1, count * height, width)
        for table in tables:
            rows = scores.new_zeros(len(anchors), 4)
            rows[inside] = table
            tops.append(rows.reshape(1, height, width, 4 * count).permute(0, 3, 1, 2).contiguous())
        return tops

    def draw_labels(self, shares: Tensor) -> Tensor:
        """Labels from the overlaps (K, G) of anchors and true boxes."""
        best = shares.amax(1)
        labels = torch.full_like(best, -1.0)
        if not len(labels):
            return labels
        labels[best < _RPN_NEGATIVE_OVERLAP] = 0
        labels[(shares == shares.amax(0)).any(1)] = 1
        labels[best >= _RPN_POSITIVE_OVERLAP] = 1
        kept = torch.full_like(best, -1.0)
        objects = draw(torch.nonzero(labels == 1)[:, 0], _RPN_FG)
        kept[objects] = 1
        kept[draw(torch.nonzero(labels == 0)[:, 0], _RPN_BATCHSIZE - len(objects))] = 0
        return kept


@register("rpn.proposal_target_layer.ProposalTargetLayer")
class ProposalTarget(_Targets):
    """Examples for the classifier of Faster R-CNN, from proposals and true boxes.

    Of the proposals and the true boxes themselves at most 32 that overlap a true box by 0.5 are
    drawn as objects of its class, and others as background until there are 128. A layer of type
    Python with this module and layer is this one unless Python layers are allowed; nothing is
    imported.

    Bottoms:
        rois: (R, 5): 0, x1, y1, x2, y2.
        gt_boxes: (G, 5): x1, y1, x2, y2, class; at least one.
    Tops:
        rois: (S, 5), objects first; the declared S is 128, the largest one.
        labels: (S,).
        targets: (S, 4 num_classes): shifts to the true box over 0.1, 0.1, 0.2, 0.2, in the columns
        of the class; 0 in all others.
        inside weights, outside weights: (S, 4 num_classes): 1 in the columns of the targets.
    Parameters:
        python_param.param_str: num_classes, background included.
    Gradient:
        none.
    ONNX:
        refused.
    Caffe source:
        lib/rpn/proposal_target_layer.py, lib/fast_rcnn/config.py and
        experiments/cfgs/faster_rcnn_end2end.yml of rbgirshick/py-faster-rcnn
    Differences:
        the settings are those of faster_rcnn_end2end.yml; the draws are torch's. R-FCN's layer of
        the same name gives its tops further axes: it is not this one.
    """

    bottoms = exactly(2)
    tops = exactly(5)
    open_axis = 0
    known = ("num_classes",)

    def configure(self) -> None:
        """Read the number of classes."""
        given = str(self.settings()["num_classes"])
        self.classes = int(given) if given.isdigit() else 0
        if self.classes < 2:
            self.fail(f"num_classes {given} must be at least 2, the background included.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """As many rows as may be drawn."""
        if len(shapes[0]) != 2 or shapes[0][1] != 5:
            self.fail(f"rois (bottom 0) has shape {tuple(shapes[0])}, expected (R, 5).")
        self.check_truth(tuple(shapes[1]))
        wide = (_BATCH_SIZE, 4 * self.classes)
        return [(_BATCH_SIZE, 5), (_BATCH_SIZE,), wide, wide, wide]

    def forward(self, rois: Tensor, truth: Tensor) -> list[Tensor]:
        """Draw, then spread the targets over the classes' columns."""
        own = torch.cat([truth.new_zeros(len(truth), 1), truth[:, :4]], 1)
        every = torch.cat([rois, own])
        best, match = overlaps(every[:, 1:], truth[:, :4]).max(1)
        objects = draw(torch.nonzero(best >= _FG_THRESH)[:, 0], _FG_ROIS)
        rest = draw(torch.nonzero(best < _BG_THRESH_HI)[:, 0], _BATCH_SIZE - len(objects))
        chosen = torch.cat([objects, rest])
        labels = truth[match[chosen], 4].clone()
        labels[len(objects) :] = 0
        goals = deltas(every[chosen, 1:], truth[match[chosen], :4]) / rois.new_tensor(_STDS)
        columns = torch.arange(self.classes).to(labels)
        hot = ((columns == labels[:, None]) & (labels > 0)[:, None]).to(rois)[..., None]
        weights = hot.expand(-1, -1, 4).flatten(1)
        targets = (hot * goals[:, None]).flatten(1)
        return [every[chosen], labels, targets, weights, weights.clone()]
