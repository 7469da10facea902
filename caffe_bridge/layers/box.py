"""Boxes of detectors: decoding from default boxes, overlap, non-maximum suppression.

Boxes are xmin, ymin, xmax, ymax relative to the image. Caffe source: bbox_util.cpp of
weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def decode(loc: Tensor, priors: Tensor, variances: Tensor | None, code: str) -> Tensor:
    """Boxes from a net's locations.

    Args:
        loc: (..., P, 4) locations.
        priors: (P, 4) default boxes.
        variances: (P, 4) factors of the locations; None when they are in the locations already.
        code: CORNER (offsets of the corners), CENTER_SIZE (offset of the centre in box sizes and
            logarithm of the sizes' ratios) or CORNER_SIZE (offsets of the corners in box sizes).

    Returns:
        (..., P, 4) corners.
    """
    if variances is not None:
        loc = loc * variances
    low, high = priors[:, :2], priors[:, 2:]
    size = high - low
    if code == "CENTER_SIZE":
        centre = loc[..., :2] * size + (low + high) / 2
        half = loc[..., 2:].exp() * size / 2
        return torch.cat([centre - half, centre + half], -1)
    if code == "CORNER_SIZE":
        loc = loc * size.repeat(1, 2)
    return priors + loc


def encode(boxes: Tensor, priors: Tensor, variances: Tensor, code: str) -> Tensor:
    """Locations (..., 4) that :func:`decode` turns into the boxes (..., 4); codes as there.

    All have one row for each box; boxes and priors must have an area unless the code is CORNER.
    """
    low, high = priors[..., :2], priors[..., 2:]
    size = high - low
    if code == "CENTER_SIZE":
        shift = (boxes[..., :2] + boxes[..., 2:] - low - high) / 2 / size
        ratio = ((boxes[..., 2:] - boxes[..., :2]) / size).log()
        return torch.cat([shift, ratio], -1) / variances
    gap = boxes - priors
    if code == "CORNER_SIZE":
        gap = gap / torch.cat([size, size], -1)
    return gap / variances


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box (4,) with others (K, 4); inverted boxes have no area."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    sides = (high - low).clip(min=0)
    shared = sides[:, 0] * sides[:, 1]
    areas = np.prod((others[:, 2:] - others[:, :2]).clip(min=0), 1)
    union = np.prod((box[2:] - box[:2]).clip(min=0)) + areas - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    least: float,
    threshold: float,
    eta: float = 1.0,
    top_k: int = -1,
    most: int = -1,
) -> np.ndarray:
    """Indices of the boxes that remain, by falling score.

    Args:
        boxes: (P, 4).
        scores: (P,).
        least: boxes whose score is not above it are out.
        threshold: a box that overlaps a better one by more is out.
        eta: while the threshold is above 0.5 it is multiplied by this after each kept box.
        top_k: how many of the best boxes are looked at, -1 for all.
        most: how many boxes may remain, -1 for all.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > least]
    if top_k > -1:
        order = order[:top_k]
    kept: list[int] = []
    for index in order.tolist():
        if len(kept) == most:
            break
        if not kept or overlap(boxes[index], boxes[kept]).max() <= threshold:
            kept.append(index)
            if eta < 1 and threshold > 0.5:
                threshold *= eta
    return np.array(kept, np.int64)
