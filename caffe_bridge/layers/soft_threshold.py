"""Sparsify and SymmetricRectify: soft thresholds that make activations sparse.

Both come with force regularization (Wen et al., "Coordinating Filters for Faster Deep Neural
Networks", ICCV 2017): activations near zero become zero, the others move towards zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer
from caffe_bridge.layers.registry import register


class _Sparsify(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: float, coef: float) -> Tensor:
        y = functional.softshrink(x, threshold) if threshold else x.clone()
        ctx.save_for_backward(y)
        ctx.threshold, ctx.coef = threshold, coef
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        dx = dy + ctx.coef * y.sign()
        return dx * (y != 0) if ctx.threshold else dx, None, None


@register("Sparsify")
class Sparsify(Layer):
    """Soft threshold and an L1 pull on the activations.

    ``y = sign(x) * max(|x| - thre, 0)``; with thre 0, ``y = x``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        thre (0): threshold, 0 or more.
        coef (0): weight of the L1 pull, 0 or more.
    Gradient:
        ``dy + coef * sign(y)``, and 0 where y is 0 when thre is above 0. The pull is in no loss
        and is scaled neither by the batch size nor by a loss weight.
    ONNX:
        Shrink; no node for thre 0.
    Caffe source:
        sparsify_layer.cpp of the force-regularization fork
    Differences:
        it logs no sparsity on display iterations.
    """

    param_field = "sparsify_param"

    def configure(self) -> None:
        """Check the signs."""
        for name in ("thre", "coef"):
            if getattr(self.p, name) < 0:
                self.fail(f"{name} {getattr(self.p, name):g} is negative; give 0 or more.")

    def forward(self, x: Tensor) -> Tensor:
        """Shrink."""
        y: Tensor = _Sparsify.apply(x, float(self.p.thre), float(self.p.coef))
        return y

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Shrink."""
        thre = float(self.p.thre)
        if thre:
            e.op("Shrink", bottoms, tops, lambd=thre, bias=thre)
        else:
            e.alias(bottoms[0], tops[0])


class _SymmetricRectify(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, decay: float) -> Tensor:
        wide = threshold.reshape(-1, *(1,) * (x.ndim - 2))
        y = x - torch.minimum(torch.maximum(x, -wide), wide)
        ctx.save_for_backward(y)
        ctx.shape, ctx.decay = threshold.shape, decay
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        (y,) = ctx.saved_tensors
        pull = -dy * y.sign()
        pull = pull.transpose(0, 1).flatten(1).sum(1) if ctx.shape else pull.sum()
        return dy * (y != 0), pull - ctx.decay, None


@register("SymmetricRectify")
class SymmetricRectify(Layer):
    """Soft threshold with learned thresholds: ``y = sign(x) * max(|x| - t_c, 0)``.

    Bottoms:
        x: (N, C, ...), at least two axes.
    Tops:
        y: the same shape; may be in place.
    Blobs:
        threshold: (C,), or () with ``channel_shared``; ``filler``, 0 when absent. Every forward
            pass raises negative ones to 0.
    Parameters:
        filler, channel_shared (false), thre_decay (0).
    Gradient:
        x: dy where y is not 0. t_c: the sum of ``-dy * sign(y)``, less ``thre_decay``, which pulls
        the thresholds up.
    ONNX:
        Max, Min and Sub with constant thresholds.
    Caffe source:
        symmetric_rectify_layer.cpp of the force-regularization fork
    Differences:
        weights may be loaded into it at once, where the fork aborts; it logs no sparsity.
    """

    param_field = "symmetric_rectify_param"

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The bottom's shape."""
        if len(shapes[0]) < 2:
            self.fail(f"bottom shape {tuple(shapes[0])} has no channels; it needs two axes.")
        return [tuple(shapes[0])]

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """The thresholds."""
        filler = self.p.filler if self.p.has("filler") else None
        return [BlobSpec(() if self.p.channel_shared else (shapes[0][1],), filler)]

    def fill_blob(
        self, blob: BlobSpec, value: nn.Parameter, generator: torch.Generator | None = None
    ) -> None:
        """Fill the thresholds.

        Raises:
            ShapeError: the filler made a negative one.
        """
        super().fill_blob(blob, value, generator)
        if bool((value < 0).any()):
            self.fail("its filler makes negative thresholds; use one that gives 0 or more.")

    def forward(self, x: Tensor) -> Tensor:
        """Raise negative thresholds to 0, then shrink."""
        # The stored value changes, as in the fork; .data keeps earlier uses of a shared blob valid.
        self.blobs[0].data.clamp_(min=0)
        y: Tensor = _SymmetricRectify.apply(x, self.blobs[0], float(self.p.thre_decay))
        return y

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Subtract what lies within the thresholds."""
        values = self.blobs[0].detach().clamp(min=0).cpu().numpy().astype(np.float32)
        values = values.reshape(-1, *(1,) * (len(e.shape(bottoms[0])) - 2))
        (above,) = e.op("Max", [bottoms[0], e.constant(-values, "low")])
        (within,) = e.op("Min", [above, e.constant(values, "high")])
        e.op("Sub", [bottoms[0], within], tops)
