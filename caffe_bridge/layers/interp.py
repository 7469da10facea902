"""Interp and Resize: bilinear interpolation of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, between
from caffe_bridge.layers.registry import register

Pair = tuple[int, int]


@register("Interp")
class Interp(Layer):
    """Bilinear interpolation whose corner pixels stay on the corners.

    ``y[i] = (1 - f) x[floor(s)] + f x[floor(s) + 1]``, ``s = i (h - 1) / (H - 1)``, f = s -
    floor(s), in rows and columns; after cutting -pad_beg pixels before and -pad_end behind.

    Bottoms:
        x: (N, C, h, w).
        like (optional): with ``use_blob_size`` (or no other size) the top has its last two axes.
    Tops:
        y: (N, C, H, W).
    Parameters:
        height and width; or zoom_factor: ``n + (n - 1) (zoom - 1)``; or shrink_factor:
        ``floor((n - 1) / shrink) + 1``; or both, shrink first; pad_beg, pad_end (0, never
        positive); use_blob_size (false).
    Gradient:
        none for the second bottom.
    ONNX:
        Resize (linear, align_corners), preceded by Slice where pixels are cut.
    Caffe source:
        interp_layer.cpp of DeepLab's and PSPNet's forks
    Differences:
        none.
    """

    param_field = "interp_param"
    bottoms = between(1, 2)
    no_gradient_bottoms = (1,)

    def configure(self) -> None:
        """Check the parameters."""
        p = self.p
        self.cut = (-int(p.pad_beg), -int(p.pad_end))
        if min(self.cut) < 0:
            self.fail(
                f"pad_beg {p.pad_beg} and pad_end {p.pad_end} may not be positive; they only cut."
            )
        self.like = bool(p.use_blob_size) or (
            len(self.spec.bottoms) > 1
            and not any(p.has(n) for n in ("height", "width", "zoom_factor", "shrink_factor"))
        )
        if self.like and len(self.spec.bottoms) < 2:
            self.fail("use_blob_size needs a second bottom of the wanted size.")
        if not self.like and not (
            p.has("zoom_factor") or p.has("shrink_factor") or (p.has("height") and p.has("width"))
        ):
            self.fail("gives no size; give height and width, zoom_factor or shrink_factor.")
        if p.zoom_factor < 1 or p.shrink_factor < 1:
            self.fail(
                f"zoom_factor {p.zoom_factor} and shrink_factor {p.shrink_factor} must be positive."
            )

    def _size(self, shapes: Sequence[Shape]) -> Pair:
        p = self.p
        sizes = [n - sum(self.cut) for n in shapes[0][2:]]
        if min(sizes) < 1:
            self.fail(f"nothing is left of bottom shape {tuple(shapes[0])} after cutting.")
        if self.like:
            return shapes[1][2], shapes[1][3]
        zoom, shrink = p.has("zoom_factor"), p.has("shrink_factor")
        if (not zoom and not shrink) or (zoom and shrink and p.has("height") and p.has("width")):
            return int(p.height), int(p.width)
        if shrink:
            sizes = [(n - 1) // int(p.shrink_factor) + 1 for n in sizes]
        if zoom:
            sizes = [n + (n - 1) * (int(p.zoom_factor) - 1) for n in sizes]
        return sizes[0], sizes[1]

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The interpolated image."""
        for shape in shapes:
            if len(shape) != 4:
                self.fail(f"takes bottoms with 4 axes (N, C, H, W), found shape {tuple(shape)}.")
        size = self._size(shapes)
        if min(size) < 1:
            self.fail(f"height and width are {size}; give positive numbers.")
        return [(*shapes[0][:2], *size)]

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Cut and interpolate."""
        x = bottoms[0]
        size = self._size([tuple(b.shape) for b in bottoms])
        before, behind = self.cut
        if any(self.cut):
            x = x[:, :, before : x.shape[2] - behind, before : x.shape[3] - behind]
        if tuple(x.shape[2:]) == size:
            return x
        return functional.interpolate(x, size, mode="bilinear", align_corners=True)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Slice and Resize."""
        shape, size = e.shape(bottoms[0]), self._size([e.shape(b) for b in bottoms])
        source = bottoms[0]
        before, behind = self.cut
        left = tuple(n - before - behind for n in shape[2:])
        if any(self.cut):
            ends = np.array([before + n for n in left], np.int64)
            (source,) = e.op(
                "Slice",
                [
                    source,
                    e.constant(np.array([before, before], np.int64), "starts"),
                    e.constant(ends, "ends"),
                    e.constant(np.array([2, 3], np.int64), "axes"),
                ],
                tops if left == size else 1,
            )
        if left == size:
            if source == bottoms[0]:
                e.alias(source, tops[0])
            return
        first = e.constant(np.array([0], np.int64), "first")
        two = e.constant(np.array([2], np.int64), "two")
        (whole,) = e.op("Shape", [source])
        (kept,) = e.op("Slice", [whole, first, two])
        (sizes,) = e.op("Concat", [kept, e.constant(np.array(size, np.int64), "size")], axis=0)
        e.op(
            "Resize", [source, "", "", sizes], tops, mode="linear",
            coordinate_transformation_mode="align_corners",
        )  # fmt: skip

    def macs(self, shapes: Sequence[Shape]) -> int:
        """Four products for every value."""
        n, c, h, w = self.infer(shapes)[0]
        return 4 * n * c * h * w


def _bilinear(wanted: int, given: int) -> np.ndarray:
    """(wanted, given) weights of a linear interpolation that counts nothing beyond the end."""
    place = np.arange(wanted) * (given / wanted)
    low = np.floor(place).astype(np.int64)
    weights = np.zeros((wanted, given + 1))
    weights[np.arange(wanted), low] = 1 - (place - low)
    weights[np.arange(wanted), low + 1] = place - low
    return weights[:, :given]


@register("Resize")
class Resize(Layer):
    """Bilinear interpolation from the first corner; what lies beyond the last pixel counts as 0.

    ``y[i] = (1 - f) x[floor(s)] + f x[floor(s) + 1]``, ``s = i h / H``, f = s - floor(s), in rows
    and columns.

    Bottoms:
        x: (N, C, h, w).
    Tops:
        y: (N, C, height, width).
    Parameters:
        height, width: both required; resize_mode (WARP) and interp_mode (LINEAR) have only this
        meaning here.
    ONNX:
        two MatMul with constant weights: ONNX's Resize repeats the last pixel.
    Caffe source:
        resize_layer.cpp, util_img.cpp of the caffe-windows forks
    Differences:
        none.
    """

    param_field = "resize_param"

    def configure(self) -> None:
        """Check the size and that no other way of resizing is asked for."""
        p = self.p
        self.size = (int(p.height), int(p.width))
        if min(self.size) < 1:
            self.fail(f"height and width are {self.size}; give both, positive.")
        if p.resize_mode != "WARP" or any(mode != "LINEAR" for mode in p.interp_mode):
            self.fail("as a layer resizes only by WARP and LINEAR; change resize_param.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The stated size."""
        if len(shapes[0]) != 4:
            self.fail(f"takes a bottom with 4 axes (N, C, H, W), found shape {tuple(shapes[0])}.")
        return [(*shapes[0][:2], *self.size)]

    def forward(self, x: Tensor) -> Tensor:
        """Rows, then columns."""
        rows = torch.from_numpy(_bilinear(self.size[0], x.shape[2])).to(x)
        columns = torch.from_numpy(_bilinear(self.size[1], x.shape[3])).to(x)
        return rows @ x @ columns.mT

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Two products with constants."""
        shape = e.shape(bottoms[0])
        rows = _bilinear(self.size[0], shape[2]).astype(np.float32)
        columns = _bilinear(self.size[1], shape[3]).T.astype(np.float32)
        (tall,) = e.op("MatMul", [e.constant(rows, "rows"), bottoms[0]])
        e.op("MatMul", [tall, e.constant(np.ascontiguousarray(columns), "columns")], tops)

    def macs(self, shapes: Sequence[Shape]) -> int:
        """Four products for every value."""
        n, c, h, w = self.infer(shapes)[0]
        return 4 * n * c * h * w
