"""Boxes of objects through crops, resizes and flips, as the SSD fork's bbox_util.cpp has them.

A box is x1, y1, x2, y2 as shares of the picture; everything is computed in float32. Tables have one
box a row with its corners in the columns of :data:`CORNERS`.
"""

from __future__ import annotations

import numpy as np

from caffe_bridge.schema import Record

#: A row of a table: class, instance, x1, y1, x2, y2, difficult.
CORNERS = slice(2, 6)
UNIT = np.array([0, 0, 1, 1], np.float32)
_ONE, _ZERO = np.float32(1), np.float32(0)


def area(box: np.ndarray) -> np.float32:
    """Width times height; 0 when a side is negative."""
    width, height = box[2] - box[0], box[3] - box[1]
    return np.float32(width * height) if width >= 0 and height >= 0 else _ZERO


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The box that two boxes share; zeros when they have no point in common."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    return np.concatenate([low, high]) if (low <= high).all() else np.zeros(4, np.float32)


def jaccard(a: np.ndarray, b: np.ndarray) -> np.float32:
    """Shared area over the area of both together."""
    shared = area(intersection(a, b))
    return np.float32(shared / (area(a) + area(b) - shared)) if shared > 0 else _ZERO


def coverage(a: np.ndarray, b: np.ndarray) -> np.float32:
    """The share of ``a`` that lies in ``b``."""
    shared = area(intersection(a, b))
    return np.float32(shared / area(a)) if shared > 0 else _ZERO


def clip(box: np.ndarray) -> np.ndarray:
    """The part inside the picture."""
    return np.clip(box, _ZERO, _ONE)


def emitted(crop: np.ndarray, box: np.ndarray, constraint: Record) -> bool:
    """Whether a box survives a crop: by its centre, or by the share of it inside."""
    if constraint.emit_type == "MIN_OVERLAP":
        return bool(coverage(box, crop) > np.float32(constraint.emit_overlap))
    centre = (box[:2] + box[2:]) / np.float32(2)
    return bool((centre >= crop[:2]).all() and (centre <= crop[2:]).all())


def project(crop: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """A box in shares of the crop, clipped to it; None when nothing of it is left."""
    if (box[:2] >= crop[2:]).any() or (box[2:] <= crop[:2]).any():
        return None
    size = np.tile(crop[2:] - crop[:2], 2)
    inside = clip((box - np.tile(crop[:2], 2)) / size)
    return inside if area(inside) > 0 else None


def crop_boxes(table: np.ndarray, crop: np.ndarray, constraint: Record | None = None) -> np.ndarray:
    """The rows whose box survives a crop, in shares of it. The crop may be larger than the picture.

    Args:
        table: rows of boxes.
        crop: what is cut out.
        constraint: transform_param.emit_constraint, if given.
    """
    rows = []
    for row in table:
        box = row[CORNERS]
        if constraint is not None and not emitted(crop, box, constraint):
            continue
        inside = project(crop, box)
        if inside is not None:
            kept = row.copy()
            kept[CORNERS] = inside
            rows.append(kept)
    return np.array(rows, np.float32).reshape(-1, table.shape[1])


def mirrored(table: np.ndarray) -> np.ndarray:
    """Boxes of the picture flipped left-right."""
    flipped = table.copy()
    flipped[:, 2], flipped[:, 4] = _ONE - table[:, 4], _ONE - table[:, 2]
    return flipped


def resized(table: np.ndarray, old: tuple[int, int], resize: Record) -> np.ndarray:
    """Boxes of a resized picture: padding moves them, all else leaves their shares.

    Args:
        table: rows of boxes.
        old: height and width of the picture before.
        resize: resize_param.

    Caffe source: UpdateBBoxByResizePolicy in im_transforms.cpp of the SSD fork.
    """
    height, width = np.float32(old[0]), np.float32(old[1])
    aspect = width / height
    new = np.array([resize.width, resize.height], np.float32)
    if resize.resize_mode == "FIT_SMALL_SIZE":
        if aspect < new[0] / new[1]:
            new[1] = new[0] / aspect
        else:
            new[0] = aspect * new[1]
    pad = np.zeros(2, np.float32)
    if resize.resize_mode == "FIT_LARGE_SIZE_AND_PAD":
        if aspect > new[0] / new[1]:
            pad[1] = (new[1] - new[0] / aspect) / np.float32(2)
        else:
            pad[0] = (new[0] - aspect * new[1]) / np.float32(2)
    size = np.array([width, height], np.float32)
    moved = table.copy()
    low, high = table[:, 2:4] * size, table[:, 4:6] * size
    inner = new - 2 * pad
    moved[:, 2:4] = (pad + np.maximum(_ZERO, low * inner / size)) / new
    moved[:, 4:6] = (pad + np.minimum(new, high * inner / size)) / new
    return moved


def extrapolated(
    table: np.ndarray, old: tuple[int, int], resize: Record, crop: np.ndarray
) -> np.ndarray:
    """Boxes in units of height_scale and width_scale, where FIT_SMALL_SIZE gives these.

    Args:
        table: rows of boxes, in shares of the crop.
        old: height and width of the picture before it was resized.
        resize: resize_param.
        crop: what was cut out of the resized picture.

    Caffe source: ExtrapolateBBox in bbox_util.cpp of the SSD fork.
    """
    if resize.resize_mode != "FIT_SMALL_SIZE" or not (resize.height_scale and resize.width_scale):
        return table
    aspect = np.float32(old[1]) / np.float32(old[0])
    new = np.array([resize.width, resize.height], np.float32)
    if aspect < new[0] / new[1]:
        new[1] = new[0] / aspect
    else:
        new[0] = new[1] * aspect
    size = new * (crop[2:] - crop[:2])
    scaled = table.copy()
    scale = np.array([resize.width_scale, resize.height_scale], np.float32)
    scaled[:, CORNERS] = table[:, CORNERS] * np.tile(size, 2) / np.tile(scale, 2)
    return scaled
