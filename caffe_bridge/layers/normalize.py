"""Normalize and L2Norm: divide by the Euclidean length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer
from caffe_bridge.layers.registry import register
from caffe_bridge.schema import Record, StoredBlob


def _unit(x: Tensor, axes: list[int], eps: float) -> Tensor:
    """``x / sqrt(sum of squares over the axes + eps)``."""
    return x / torch.sqrt(x.square().sum(axes, keepdim=True) + eps)


def _emit_length(e: Emitter, source: str, axes: list[int], eps: float) -> str:
    """Nodes for the length over the axes."""
    total = e.reduce("ReduceSumSquare", source, axes)
    if eps:
        (total,) = e.op("Add", [total, e.constant(np.array(eps, np.float32), "eps")])
    return e.op("Sqrt", [total])[0]


@register("Normalize")
class Normalize(Layer):
    """Scale to unit length, then by a learned factor.

    ``y = s_c * x / sqrt(sum x^2 + eps)``, the sum over all of an item, or over its channels only.

    Bottoms:
        x: (N, C, ...).
    Tops:
        y: the same shape.
    Blobs:
        scale: () with ``channel_shared``, else (C,); ``scale_filler``, constant 1 when absent. A
        file of the face-recognition forks, whose layer has no blob, loads as 1.
    Parameters:
        across_spatial (true): sum over channels and positions; false: at each position apart.
        channel_shared (true), scale_filler, eps (1e-10).
    ONNX:
        ReduceSumSquare, Add, Sqrt, Div, Mul.
    Caffe source:
        normalize_layer.cpp of the SSD fork
    Differences:
        the face-recognition forks (no ``norm_param``) have no scale to train and no eps: give
        ``param { lr_mult: 0 }`` to train such a net.
    """

    param_field = "norm_param"

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The bottom's shape."""
        if len(shapes[0]) < 2:
            self.fail(f"bottom shape {tuple(shapes[0])} has no channels; it needs two axes.")
        return [tuple(shapes[0])]

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """The factor."""
        filler = self.p.scale_filler
        if not self.p.has("scale_filler"):
            filler = Record("FillerParameter", type="constant", value=1.0)
        return [BlobSpec(() if self.p.channel_shared else (shapes[0][1],), filler)]

    def adapt_blobs(self, stored: list[StoredBlob | None]) -> list[StoredBlob | None]:
        """A factor of 1 for files without; one of another shape but as many values as it is."""
        shape = tuple(self.blobs[0].shape)
        if not stored and not self.spec.record.has("norm_param"):
            return [StoredBlob(shape, False, np.ones(shape, np.float32))]
        first = stored[0] if len(stored) == 1 else None
        if first is not None and first.count == self.blobs[0].numel() == max((1, *first.shape)):
            return [StoredBlob(shape, False, first.values)]
        return stored

    def _axes(self, axes: int) -> list[int]:
        return list(range(1, axes)) if self.p.across_spatial else [1]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and scale."""
        unit = _unit(x, self._axes(x.ndim), self.p.eps)
        return unit * self.blobs[0].reshape(-1, *(1,) * (x.ndim - 2))

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Length, quotient, factor."""
        axes = len(e.shape(bottoms[0]))
        (unit,) = e.op("Div", [bottoms[0], _emit_length(e, bottoms[0], self._axes(axes),
                                                        float(self.p.eps))])  # fmt: skip
        scale = self.blobs[0].detach().cpu().numpy().astype(np.float32)
        factor = e.constant(scale.reshape(-1, *(1,) * (axes - 2)), "scale")
        e.op("Mul", [unit, factor], tops)


@register("L2Norm")
class L2Norm(Layer):
    """Scale every item to unit length: ``y = x / sqrt(sum x^2 + eps)``.

    Bottoms:
        x: (N, ...), at least two axes.
    Tops:
        y: the same shape.
    Parameters:
        eps (0).
    ONNX:
        ReduceSumSquare, Add, Sqrt, Div; no Add without eps.
    Caffe source:
        l2_norm_layer.cpp of the face-recognition forks
    Differences:
        one fork sums at each position apart; on (N, C) bottoms, where the layer is used, all agree.
    """

    param_field = "l2_norm_param"

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The bottom's shape."""
        if len(shapes[0]) < 2:
            self.fail(f"bottom shape {tuple(shapes[0])} holds no vectors; it needs two axes.")
        return [tuple(shapes[0])]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return _unit(x, list(range(1, x.ndim)), self.p.eps)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Length and quotient."""
        axes = list(range(1, len(e.shape(bottoms[0]))))
        e.op("Div", [bottoms[0], _emit_length(e, bottoms[0], axes, float(self.p.eps))], tops)
