"""Upsample: undo a max pooling by its mask, or repeat every pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, between
from caffe_bridge.layers.checks import forbid
from caffe_bridge.layers.registry import register

_INT64 = 7


def check_mask(layer: Layer, shapes: Sequence[Shape]) -> None:
    """Check that the image has four axes and the mask, if any, the same shape.

    Raises:
        ShapeError: it has not.
    """
    if len(shapes[0]) != 4:
        layer.fail(f"takes a bottom with 4 axes (N, C, H, W), found shape {tuple(shapes[0])}.")
    if len(shapes) > 1 and tuple(shapes[1]) != tuple(shapes[0]):
        layer.fail(
            f"mask of shape {tuple(shapes[1])} does not fit bottom 0 of shape {tuple(shapes[0])}; "
            "take the mask of the pooling that made this size."
        )


def unpool(layer: Layer, x: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Put each value of (N, C, h, w) where the mask (``row * W + column``) says, 0 elsewhere.

    A negative place is nowhere; of values for one place the last one stays. The gradient of each
    value is that of its place.

    Raises:
        ShapeError: a place lies outside the output.
    """
    count = size[0] * size[1]
    place = mask.detach().long().flatten(2)
    far = place >= count

    def error() -> ShapeError:
        return ShapeError(
            f"{layer.spec.label()}: the mask points to place {int(place.max())} of an output of "
            f"{size[0]} x {size[1]}; give the size that was pooled."
        )

    forbid(far, error)
    place = place.where((place >= 0) & ~far, torch.full_like(place, count))
    plane = x.new_zeros(*x.shape[:2], count + 1)  # the last place takes what goes nowhere
    return plane.scatter(2, place, x.flatten(2))[..., :count].reshape(*x.shape[:2], *size)


def emit_unpool(
    e: Emitter, bottoms: Sequence[str], shape: Shape, size: tuple[int, int], top: str
) -> None:
    """ScatterElements into planes of zeros that have one place more for what goes nowhere."""
    channels, count = shape[1], size[0] * size[1]
    flat = e.reshape(bottoms[0], (shape[0], channels, shape[2] * shape[3]))
    places = e.reshape(bottoms[1], (shape[0], channels, shape[2] * shape[3]))
    (places,) = e.op("Cast", [places], to=_INT64)
    (places,) = e.op("Max", [places, e.constant(np.array(-1, np.int64), "nowhere")])
    first = e.constant(np.array([0], np.int64), "first")
    one = e.constant(np.array([1], np.int64), "one")
    (whole,) = e.op("Shape", [flat])
    (batch,) = e.op("Slice", [whole, first, one])
    rest = e.constant(np.array([channels, count + 1], np.int64), "planes")
    (planes,) = e.op("Concat", [batch, rest], axis=0)
    (zeros,) = e.op("Expand", [e.constant(np.zeros((1, 1, 1), np.float32), "zero"), planes])
    (filled,) = e.op("ScatterElements", [zeros, places, flat], axis=2)
    end = e.constant(np.array([count], np.int64), "count")
    (cut,) = e.op("Slice", [filled, first, end, e.constant(np.array([2], np.int64), "axis")])
    e.reshape(cut, (shape[0], channels, *size), top)


@register("Upsample")
class Upsample(Layer):
    """Enlarge an image, by the mask of a max pooling or by repetition.

    With a mask (SegNet): ``y[mask] = x``, 0 elsewhere. Without (YOLO):
    ``y[i, j] = x[floor(i / scale_h), floor(j / scale_w)]``.

    Bottoms:
        x: (N, C, h, w).
        mask (optional): the same shape, ``row * W + column`` in the output, -1 for nowhere.
    Tops:
        y: (N, C, H, W), ``H = scale_h h - pad_out_h``.
    Parameters:
        scale (2 with a mask), or scale_h and scale_w; for a mask also pad_out_h, pad_out_w
        (false: one row or column less) or upsample_h and upsample_w (the size, instead of all
        others).
    Gradient:
        with a mask that of each value's place; without the sum over its copies. None for a mask.
    ONNX:
        ScatterElements; without a mask Resize (nearest).
    Caffe source:
        upsample_layer.cpp of SegNet's fork, upsample_layer.cpp of the YOLO forks
    Differences:
        a mask that says -1 puts the value nowhere; Caffe writes outside the plane.
    """

    param_field = "upsample_param"
    bottoms = between(1, 2)
    no_gradient_bottoms = (1,)

    def configure(self) -> None:
        """Check which parameters are given together."""
        p = self.p
        self.masked = len(self.spec.bottoms) > 1
        self.size = (int(p.upsample_h), int(p.upsample_w))
        self.sized = p.has("upsample_h") or p.has("upsample_w")
        high, wide = p.has("scale_h"), p.has("scale_w")
        if self.sized:
            if min(self.size) < 1:
                self.fail(f"upsample_h and upsample_w are {self.size}; give both, positive.")
        elif (
            high != wide or (high and p.has("scale")) or not (high or p.has("scale") or self.masked)
        ):
            self.fail("needs scale, or both scale_h and scale_w, or upsample_h and upsample_w.")
        one = int(p.scale) if p.has("scale") else 2  # SegNet's default
        self.scale = (int(p.scale_h), int(p.scale_w)) if high else (one, one)
        if not self.sized and min(self.scale) < 1:
            self.fail(f"scale is {self.scale}; give positive numbers.")
        self.less = (int(p.pad_out_h), int(p.pad_out_w))
        if not self.masked and (self.sized or any(self.less)):
            self.fail(
                "gives upsample_h, upsample_w or pad_out without a mask; add the mask of the "
                "pooling as second bottom, or give scale alone."
            )

    def _size(self, spatial: Shape) -> tuple[int, int]:
        if self.sized:
            return self.size
        high, wide = (
            n * s - less for n, s, less in zip(spatial, self.scale, self.less, strict=True)
        )
        return high, wide

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The enlarged image."""
        check_mask(self, shapes)
        return [(*shapes[0][:2], *self._size(tuple(shapes[0][2:])))]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Put back, or repeat."""
        if mask is not None:
            return unpool(self, x, mask, self._size(tuple(x.shape[2:])))
        return x.repeat_interleave(self.scale[0], 2).repeat_interleave(self.scale[1], 3)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """ScatterElements, or Resize."""
        shape = e.shape(bottoms[0])
        if self.masked:
            emit_unpool(e, bottoms, shape, self._size(tuple(shape[2:])), tops[0])
            return
        scales = e.constant(np.array([1, 1, *self.scale], np.float32), "scales")
        e.op(
            "Resize", [bottoms[0], "", scales], tops, mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )  # fmt: skip
