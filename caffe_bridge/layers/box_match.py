"""Which default box learns which true box: matching and hard example mining of SSD.

Caffe source: bbox_util.cpp of weiliu89/caffe, branch ssd.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffe_bridge.layers.box import overlap, suppress

#: Indices of what a default box is matched with, where it is not a true box.
NOTHING, IGNORED = -1, -2
#: Overlaps up to this count as none.
_NONE = 1e-6


@dataclass(frozen=True)
class Truth:
    """The true boxes of one image: corners (G, 4) and classes (G,)."""

    boxes: np.ndarray
    labels: np.ndarray


def read_truth(rows: np.ndarray, difficult: bool) -> dict[int, Truth]:
    """True boxes by image.

    Args:
        rows: (G, 8) image, class, instance, xmin, ymin, xmax, ymax, difficult; image -1 is none.
        difficult: whether difficult ones count.
    """
    used = rows[(rows[:, 0].astype(int) != -1) & (difficult | (rows[:, 7] == 0))]
    images = used[:, 0].astype(int)
    return {
        int(image): Truth(used[images == image, 3:7], used[images == image, 1].astype(int))
        for image in np.unique(images)
    }


def match(
    boxes: np.ndarray, truth: np.ndarray, threshold: float | None, inside: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Give each true box its best default box, then default boxes their best true box.

    Args:
        boxes: (P, 4) default boxes or predictions.
        truth: (G, 4) true boxes.
        threshold: least overlap of a match in the second step; None leaves that step out.
        inside: boxes that reach over the image's border are ignored.

    Returns:
        (P,) indices of true boxes, NOTHING or IGNORED; (P,) overlaps with the matched or best box.
    """
    found = np.full(len(boxes), NOTHING)
    table = np.stack([overlap(box, boxes) for box in truth], 1) if len(truth) else None
    if table is None:
        return found, np.zeros(len(boxes), np.float32)
    if inside:
        outside = ((boxes < 0) | (boxes > 1)).any(1)
        found[outside], table[outside] = IGNORED, 0
    table[table <= _NONE] = 0
    best = table.max(1)
    free = np.where((found == NOTHING)[:, None], table, 0)
    while free.max(initial=0) > 0:
        box, true = np.unravel_index(free.argmax(), free.shape)
        found[box], best[box] = true, table[box, true]
        free[box], free[:, true] = 0, 0
    if threshold is not None:
        more = (found == NOTHING) & (best > 0) & (best >= threshold)
        found[more] = table[more].argmax(1)
    return found, best


@dataclass(frozen=True)
class Mining:
    """How boxes are chosen for the loss of the classes; see MultiBoxLossParameter."""

    hard_examples: bool
    neg_pos_ratio: float
    neg_overlap: float
    sample_size: int
    nms_threshold: float
    top_k: int


def mine(
    found: np.ndarray, overlaps: np.ndarray, losses: np.ndarray, boxes: np.ndarray, how: Mining
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the boxes of largest loss.

    Args:
        found: (P,) matches of one image.
        overlaps: (P,) their overlaps.
        losses: (P,) the loss of each default box.
        boxes: (P, 4) for the non-maximum suppression.
        how: what to choose.

    Returns:
        (P,) matches, NOTHING for hard examples that were not chosen; indices of the negatives.
    """
    if how.hard_examples:
        candidates = np.arange(len(found))
        count = how.sample_size
    else:
        candidates = np.flatnonzero((found == NOTHING) & (overlaps < how.neg_overlap))
        count = int((found > NOTHING).sum() * how.neg_pos_ratio)
    if how.nms_threshold > 0:
        order = suppress(
            boxes[candidates], losses[candidates], -np.inf, how.nms_threshold, top_k=how.top_k
        )
    else:
        order = np.argsort(-losses[candidates], kind="stable")
    chosen = np.zeros(len(found), bool)
    chosen[candidates[order[:count]]] = True
    negatives = np.flatnonzero(chosen & (found == NOTHING))
    if how.hard_examples:
        found = np.where((found > NOTHING) & ~chosen, NOTHING, found)
    return found, negatives
