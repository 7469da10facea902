"""SSD's random augmentations: colours, a larger canvas, random crops that objects allow.

All draws come from one generator an item, in the order in which the fork makes them. Pictures are
OpenCV's (H, W) or (H, W, C), 8 bits. Caffe source: annotated_data_layer.cpp, data_transformer.cpp,
sampler.cpp and im_transforms.cpp of the SSD fork.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from caffe_bridge.data.boxes import CORNERS, clip, coverage, crop_boxes, jaccard
from caffe_bridge.errors import DataError
from caffe_bridge.schema import Record

#: What raw datums have where the canvas is empty.
_BLANK = 32


@dataclass(frozen=True)
class Sample:
    """A picture on its way: OpenCV's array, its table of boxes, and whether it came encoded."""

    image: np.ndarray
    table: np.ndarray
    encoded: bool
    where: str


def uniform(rng: np.random.Generator, low: float, high: float) -> np.float32:
    """A number of [low, high)."""
    first, last = np.float32(low), np.float32(high)
    return np.float32(first + (last - first) * np.float32(rng.random()))


def through_jpeg(sample: Sample) -> Sample:
    """Encoded pictures become JPEGs after each augmentation, as in the fork; raw ones stay."""
    if not sample.encoded:
        return sample
    import cv2  # here: loading it takes longer than everything else in the package

    data = cv2.imencode(".jpg", np.ascontiguousarray(sample.image))[1]
    return replace(sample, image=np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED)))


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def linear(image: np.ndarray, factor: float | np.float32, offset: float | np.float32) -> np.ndarray:
    """``factor * image + offset``, rounded to even and kept within 0 and 255."""
    grey = np.arange(256, dtype=np.float32)
    made: np.ndarray = _table(grey * np.float32(factor) + np.float32(offset))[image]
    return made


def in_hsv(
    image: np.ndarray, channel: int, change: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Change one channel of OpenCV's HSV (0 is the hue, in units of two degrees)."""
    import cv2

    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hsv[..., channel] = change(hsv[..., channel])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


class Distortion:
    """Brightness, contrast, saturation, hue and order of the channels, each with a probability.

    Contrast is the second step or the last but one, with equal chance.

    Args:
        p: transform_param.distort_param.
        who: what to name in messages.

    Raises:
        DataError: limits that contradict each other.
    """

    def __init__(self, p: Record, who: str) -> None:
        self.p = p
        for name in ("brightness", "hue"):
            if getattr(p, f"{name}_delta") < 0:
                raise DataError(f"{who}: distort_param.{name}_delta is negative; give 0 or more.")
        for name in ("contrast", "saturation"):
            low, high = getattr(p, f"{name}_lower"), getattr(p, f"{name}_upper")
            if not 0 <= low <= high:
                raise DataError(
                    f"{who}: distort_param.{name}_lower {low:g} and {name}_upper {high:g} are no "
                    "range from 0 on; correct them."
                )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The distorted picture.

        Raises:
            DataError: not three channels where hue, saturation or order are changed.
        """
        first = uniform(rng, 0, 1) > 0.5
        image = self._brightness(image, rng)
        if first:
            image = self._contrast(image, rng)
        image = self._hue(self._saturation(image, rng), rng)
        if not first:
            image = self._contrast(image, rng)
        if uniform(rng, 0, 1) < self.p.random_order_prob:
            image = np.ascontiguousarray(image[..., rng.permutation(image.shape[2])])
        return image

    def _brightness(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not uniform(rng, 0, 1) < self.p.brightness_prob:
            return image
        limit = self.p.brightness_delta
        return linear(image, 1, uniform(rng, -limit, limit))

    def _contrast(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not uniform(rng, 0, 1) < self.p.contrast_prob:
            return image
        factor = uniform(rng, self.p.contrast_lower, self.p.contrast_upper)
        return linear(image, factor, 0) if abs(factor - 1) > 1e-3 else image

    def _saturation(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not uniform(rng, 0, 1) < self.p.saturation_prob:
            return image
        factor = uniform(rng, self.p.saturation_lower, self.p.saturation_upper)
        return in_hsv(image, 1, lambda values: linear(values, factor, 0))

    def _hue(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not uniform(rng, 0, 1) < self.p.hue_prob:
            return image
        offset = uniform(rng, -self.p.hue_delta, self.p.hue_delta)
        return in_hsv(image, 0, lambda values: linear(values, 1, offset)) if offset else image

    @property
    def needs_color(self) -> bool:
        """Whether pictures must have three channels."""
        p = self.p
        return bool(p.saturation_prob > 0 or p.hue_prob > 0 or p.random_order_prob > 0)


def expand(
    sample: Sample, p: Record, mean: np.ndarray | None, emit: Record | None,
    rng: np.random.Generator,
) -> Sample:  # fmt: skip
    """Perhaps place the picture somewhere on a larger canvas of the mean's colour.

    Args:
        sample: the picture.
        p: transform_param.expand_param.
        mean: mean_value as (C or 1, 1, 1), None for a black canvas.
        emit: emit_constraint, if given.
        rng: source of the draws.
    """
    if uniform(rng, 0, 1) > np.float32(p.prob) or abs(p.max_expand_ratio - 1) < 1e-2:
        return sample
    ratio = uniform(rng, 1, p.max_expand_ratio)
    old = np.array(sample.image.shape[:2])
    new = (old.astype(np.float32) * ratio).astype(np.int64)
    top, left = (int(np.floor(uniform(rng, 0, free))) for free in new - old)
    height, width = (np.float32(side) for side in old)
    box = np.array(
        [-left / width, -top / height, (new[1] - left) / width, (new[0] - top) / height],
        np.float32,
    )
    canvas = np.zeros((*new, *sample.image.shape[2:]), np.uint8)
    if not sample.encoded:
        canvas[...] = _BLANK
    elif mean is not None:
        colour = _table(mean.reshape(-1))
        canvas[...] = colour if canvas.ndim == 3 else colour[0]
    canvas[top : top + old[0], left : left + old[1]] = sample.image
    return through_jpeg(replace(sample, image=canvas, table=crop_boxes(sample.table, box, emit)))


def draw_box(sampler: Record, rng: np.random.Generator) -> np.ndarray:
    """A box by scale (side of the square of its area) and aspect ratio, anywhere in the picture."""
    scale = uniform(rng, sampler.min_scale, sampler.max_scale)
    aspect = uniform(rng, sampler.min_aspect_ratio, sampler.max_aspect_ratio)
    square = np.float32(float(scale) ** 2)
    aspect = min(max(aspect, square), np.float32(1 / float(scale) ** 2))
    size = np.array([scale * np.sqrt(aspect), scale / np.sqrt(aspect)], np.float32)
    corner = np.array([uniform(rng, 0, max(0, 1 - side)) for side in size], np.float32)
    return np.concatenate([corner, corner + size])


def satisfies(box: np.ndarray, table: np.ndarray, p: Record) -> bool:
    """Whether a crop has one object within the limits of ``sample_constraint``.

    As in the fork, an object that keeps one kind of limit settles it even when it breaks the next
    kind.
    """
    kinds: list[tuple[str, Callable[[np.ndarray], np.float32]]] = [
        ("jaccard_overlap", lambda other: jaccard(box, other)),
        ("sample_coverage", lambda other: coverage(box, other)),
        ("object_coverage", lambda other: coverage(other, box)),
    ]
    used = [
        (f"min_{name}", f"max_{name}", measure)
        for name, measure in kinds
        if p.has(f"min_{name}") or p.has(f"max_{name}")
    ]
    if not used:
        return True
    for other in table[:, CORNERS]:
        kept = False
        for low, high, measure in used:
            found = measure(other)
            if p.has(low) and found < np.float32(getattr(p, low)):
                break
            if p.has(high) and found > np.float32(getattr(p, high)):
                break
            kept = True
        if kept:
            return True
    return False


def draw_samples(
    samplers: list[Record], table: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """The crops that all samplers find."""
    found: list[np.ndarray] = []
    for sampler in samplers:
        if not sampler.use_original_image:
            continue
        kept = 0
        for _ in range(int(sampler.max_trials)):
            if sampler.has("max_sample") and kept >= sampler.max_sample:
                break
            box = draw_box(sampler.sampler, rng)
            if satisfies(box, table, sampler.sample_constraint):
                kept += 1
                found.append(box)
    return found


def sample_crop(
    sample: Sample, samplers: list[Record], emit: Record | None, rng: np.random.Generator
) -> Sample:
    """Cut out one of the crops that the samplers find; the whole picture when they find none.

    Raises:
        DataError: the crop has no pixel.
    """
    found = draw_samples(samplers, sample.table, rng)
    if not found:
        return sample
    box = clip(found[int(rng.integers(len(found)))])
    height, width = sample.image.shape[:2]
    sides = np.array([width, height, width, height], np.float32)
    left, top = (int(v) for v in (box * sides)[:2])
    size = ((box * sides)[2:] - (box * sides)[:2]).astype(np.int64)
    if size.min() < 1:
        raise DataError(
            f"{sample.where}: a random crop of the picture of {width} x {height} has no pixel; "
            "raise min_scale of the samplers."
        )
    image = sample.image[top : top + size[1], left : left + size[0]]
    return through_jpeg(replace(sample, image=image, table=crop_boxes(sample.table, box, emit)))


def check_samplers(samplers: list[Record], who: str) -> None:
    """Refuse limits that contradict each other.

    Raises:
        DataError: no range of scales within (0, 1] or of positive aspect ratios.
    """
    for number, one in enumerate(samplers):
        p = one.sampler
        if not 0 < p.min_scale <= p.max_scale <= 1:
            raise DataError(
                f"{who}: batch_sampler {number} has scales from {p.min_scale:g} to "
                f"{p.max_scale:g}; they must rise within (0, 1]."
            )
        if not 0 < p.min_aspect_ratio <= p.max_aspect_ratio:
            raise DataError(
                f"{who}: batch_sampler {number} has aspect ratios from {p.min_aspect_ratio:g} to "
                f"{p.max_aspect_ratio:g}; they must rise from above 0."
            )
