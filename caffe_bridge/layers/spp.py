"""SPP: pooling over a pyramid of grids, so that any image gives a vector of one length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.pool_window import (
    PoolWindow,
    average_pool,
    emit_average,
    emit_max,
    emit_stochastic,
    max_pool,
    stochastic_pool,
)
from caffe_bridge.layers.registry import register


@register("SPP")
class SPP(Layer):
    """Spatial pyramid pooling: level l pools over a grid of ``2^l x 2^l`` bins.

    Bins of level l are ``k = ceil(size / 2^l)`` long, k apart, with ``(k 2^l - size + 1) / 2``
    (rounded down) pixels of padding; see Pooling for the rest.

    Bottoms:
        x: (N, C, H, W).
    Tops:
        y: (N, sum of C * bins over the levels), level by level; with pyramid_height 1 the pooled
        blob (N, C, 1, 1) as it is.
    Parameters:
        pyramid_height (levels), pool (MAX, AVE or STOCHASTIC).
    ONNX:
        as Pooling per level, Flatten and Concat.
    Caffe source:
        spp_layer.cpp
    Differences:
        none.
    """

    param_field = "spp_param"

    def configure(self) -> None:
        """Check the number of levels."""
        if self.p.pyramid_height < 1:
            self.fail("pyramid_height is missing or zero; give the number of levels.")

    def windows(self, shape: Shape) -> list[PoolWindow]:
        """The windows of every level.

        Raises:
            ShapeError: not an image, or one too small for the finest grid.
        """
        if len(shape) != 4:
            self.fail(f"takes a bottom with 4 axes (N, C, H, W), found shape {tuple(shape)}.")
        found = []
        for level in range(self.p.pyramid_height):
            bins = 2**level
            kernel = (math.ceil(shape[2] / bins), math.ceil(shape[3] / bins))
            pad = ((kernel[0] * bins - shape[2] + 1) // 2, (kernel[1] * bins - shape[3] + 1) // 2)
            if any(p >= k for p, k in zip(pad, kernel, strict=True)):
                self.fail(
                    f"bottom shape {tuple(shape)} is too small for {bins} x {bins} bins; lower "
                    f"pyramid_height {self.p.pyramid_height}."
                )
            if any(pad) and self.p.pool == "STOCHASTIC":
                self.fail(
                    f"STOCHASTIC takes no padding, but {bins} bins do not divide bottom shape "
                    f"{tuple(shape)}."
                )
            found.append(PoolWindow(kernel, kernel, pad))
        return found

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """One vector per image, or the only level as it is."""
        shape = tuple(shapes[0])
        sizes = [window.sizes(shape[2:]) for window in self.windows(shape)]
        if len(sizes) == 1:
            return [(*shape[:2], *sizes[0])]
        return [(shape[0], shape[1] * sum(height * width for height, width in sizes))]

    def _pool(self, x: Tensor, window: PoolWindow) -> Tensor:
        if self.p.pool == "AVE":
            return average_pool(x, window)
        if self.p.pool == "STOCHASTIC":
            return stochastic_pool(x, window, self.train_phase)
        return max_pool(x, window)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Pool every level, flatten and join."""
        levels = [self._pool(x, window) for window in self.windows(tuple(x.shape))]
        return levels[0] if len(levels) == 1 else torch.cat([y.flatten(1) for y in levels], 1)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """A pooling per level, then Flatten and Concat."""
        shape = e.shape(bottoms[0])
        windows = self.windows(shape)
        top = tops[0] if len(windows) == 1 else ""
        parts = []
        for window in windows:
            if self.p.pool == "AVE":
                pooled = emit_average(e, bottoms[0], shape, window, top)
            elif self.p.pool == "STOCHASTIC":
                pooled = emit_stochastic(e, bottoms[0], shape, window, top)
            else:
                pooled = emit_max(e, bottoms[0], shape, window, [top])
            parts.append(pooled)
        if len(parts) > 1:
            flat = [e.op("Flatten", [part], axis=1)[0] for part in parts]
            e.op("Concat", flat, tops, axis=1)
