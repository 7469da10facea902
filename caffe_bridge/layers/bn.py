"""BN and CuDNNBatchNorm: batch normalisation with slope and bias inside the layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer
from caffe_bridge.layers.registry import register
from caffe_bridge.schema import StoredBlob

#: Variance floor of SegNet's fork; not a parameter there.
_SEGNET_EPS = 1e-9


def per_channel(values: Tensor, rank: int) -> Tensor:
    """A blob of C values so that it broadcasts over (N, C, ...)."""
    return values.reshape(-1, *(1,) * (rank - 2))


def emit_affine(e: Emitter, source: str, scale: np.ndarray, bias: np.ndarray, rank: int,
                top: str) -> None:  # fmt: skip
    """``scale * x + bias`` for channels."""
    shape = (-1, *(1,) * (rank - 2))
    (scaled,) = e.op("Mul", [source, e.constant(scale.reshape(shape), "scale")])
    e.op("Add", [scaled, e.constant(bias.reshape(shape), "bias")], [top])


def emit_batch_statistics(e: Emitter, source: str, rank: int, eps: float) -> str:
    """Nodes that normalise by the batch's own mean and variance; returns their result."""
    axes = [axis for axis in range(rank) if axis != 1]
    (centred,) = e.op("Sub", [source, e.reduce("ReduceMean", source, axes)])
    (square,) = e.op("Mul", [centred, centred])
    spread = e.reduce("ReduceMean", square, axes)
    (spread,) = e.op("Add", [spread, e.constant(np.array(eps, np.float32), "eps")])
    (deviation,) = e.op("Sqrt", [spread])
    return e.op("Div", [centred, deviation])[0]


def _flat(blob: StoredBlob | None, shape: Shape) -> StoredBlob | None:
    """The blob in ``shape`` when it has as many values, all on one axis."""
    if blob is None or blob.count != int(np.prod(shape)) or blob.fits(shape):
        return blob
    return blob if max(blob.shape, default=1) != blob.count else StoredBlob(
        shape, False, blob.values
    )  # fmt: skip


class ScaledNorm(Layer):
    """Base of the types with blobs slope, bias and, mostly, running mean and variance.

    Subclasses set in :meth:`configure`: ``eps``; ``keep``, the share of the old statistics that
    stays; ``stored``, whether the running statistics are used; ``running``, whether they exist;
    ``frozen``, whether nothing is learned; ``merged``, whether the layer only scales and adds.
    """

    fillers = ("slope_filler", "bias_filler")
    eps: float
    keep: float
    stored: bool
    running = True
    frozen = False
    merged = False

    def blob_shape(self, channels: int) -> Shape:
        """Shape of every blob."""
        return (1, channels, 1, 1)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shape of the bottom."""
        if len(shapes[0]) < 2:
            self.fail(f"bottom shape {tuple(shapes[0])} has no channels; it needs two axes.")
        return [tuple(shapes[0])]

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Slope, bias and, unless there are none, running mean and variance."""
        shape = self.blob_shape(shapes[0][1])
        roles = ("statistic", "statistic") if self.frozen else ("weight", "bias")
        specs = [
            BlobSpec(shape, getattr(self.p, name), role)
            for name, role in zip(self.fillers, roles, strict=True)
        ]
        return specs + [BlobSpec(shape, role="statistic")] * (2 if self.running else 0)

    def fill_blob(
        self, blob: BlobSpec, value: Any, generator: torch.Generator | None = None
    ) -> None:
        """The filler; a frozen layer's variance starts at 1."""
        super().fill_blob(blob, value, generator)
        if self.frozen and self.running and value is self.blobs[3]:
            value.detach().fill_(1.0)

    def adapt_blobs(self, stored: list[StoredBlob | None]) -> list[StoredBlob | None]:
        """Other shapes of the same values; merged files in running layers and the reverse."""
        shapes = [tuple(blob.shape) for blob in self.blobs]
        channels = self.blobs[0].numel()
        if len(stored) == 4 and self.merged and None not in stored:
            slope, bias, mean, variance = (
                np.asarray(b.values, np.float64).reshape(-1) for b in stored if b is not None
            )
            if all(v.size == channels for v in (slope, bias, mean, variance)):
                slope = slope / np.sqrt(variance + self.eps)
                merged = slope, bias - mean * slope
                return [StoredBlob(shapes[0], False, v.astype(np.float32)) for v in merged]
        if len(stored) == 2 and self.running:
            neutral = np.zeros(channels, np.float32), np.full(channels, 1 - self.eps, np.float32)
            stored = [*stored, *(StoredBlob(shapes[0], False, v) for v in neutral)]
        if len(stored) != len(shapes):
            return stored
        return [_flat(blob, shape) for blob, shape in zip(stored, shapes, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (unless merged), scale and add; in training also follow the statistics."""
        slope, bias = (self.blobs[i].reshape(-1) for i in (0, 1))
        if self.merged:
            return x * per_channel(slope, x.ndim) + per_channel(bias, x.ndim)
        if self.stored:
            mean, variance = (self.blobs[i].detach().reshape(-1) for i in (2, 3))
            return functional.batch_norm(x, mean, variance, slope, bias, False, eps=self.eps)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean = x.mean(axes)
        centred = x - per_channel(mean, x.ndim)
        variance = centred.square().mean(axes)
        if self.running and self.train_phase:
            self._follow(mean.detach(), variance.detach())
        unit = centred / per_channel(torch.sqrt(variance + self.eps), x.ndim)
        return unit * per_channel(slope, x.ndim) + per_channel(bias, x.ndim)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        for blob, new in zip(list(self.blobs)[2:], (mean, variance), strict=True):
            blob.mul_(self.keep).add_(new.reshape(blob.shape), alpha=1 - self.keep)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """BatchNormalization, or Mul and Add, or the formula."""
        rank = len(e.shape(bottoms[0]))
        values = [b.detach().cpu().numpy().astype(np.float32).reshape(-1) for b in self.blobs]
        if self.stored and not self.merged:
            hints = ("slope", "bias", "mean", "variance")
            names = [e.constant(v, hint) for v, hint in zip(values, hints, strict=True)]
            e.op("BatchNormalization", [bottoms[0], *names], tops, epsilon=float(self.eps))
            return
        source = bottoms[0]
        if not self.merged:
            source = emit_batch_statistics(e, source, rank, float(self.eps))
        emit_affine(e, source, values[0], values[1], rank, tops[0])


@register("BN")
class BN(ScaledNorm):
    """Batch normalisation with slope and bias: ``y = slope (x - mean) / sqrt(var + eps) + bias``.

    Three forks have this type; the parameters tell which one is meant:

    * PSPNet and TSN (any other): stored statistics in the TEST phase or when ``frozen``, else the
      batch's, followed by ``blob = momentum blob + (1 - momentum) new``, variance over m.
    * caffe-windows (``moving_average``, ``decay`` or ``var_eps`` given): the batch's statistics,
      in the TEST phase the stored ones if ``moving_average``; followed in the TRAIN phase by
      ``blob = (1 - decay) blob + decay new``.
    * SegNet and ENet (``bn_mode``, ``scale_filler`` or ``shift_filler`` given): LEARN takes the
      batch's statistics always, INFERENCE only ``y = slope x + bias``.

    Bottoms:
        x: (N, C, ...).
    Tops:
        y: the same shape; may be in place.
    Blobs:
        slope, bias: (1, C) in the first fork, else (1, C, 1, 1); ``slope_filler`` and
        ``bias_filler``, or ``scale_filler`` and ``shift_filler`` (constant 0, as in Caffe).
        mean, variance: the same shape, not in SegNet's fork; no gradient reaches them.
        A file with slope and bias alone loads into all forms, one with all four into INFERENCE.
    Parameters:
        momentum (0.9), eps (1e-5), frozen (false: else slope and bias are not trained either);
        moving_average (false), decay (0.95), var_eps (1e-10); bn_mode (LEARN).
    ONNX:
        BatchNormalization; Mul and Add; with batch statistics the formula.
    Caffe source:
        bn_layer.cpp of the forks named
    Differences:
        SegNet's further tops (mean and variance of the batch) are refused.
    """

    param_field = "bn_param"

    def configure(self) -> None:
        """Find the fork by its parameters."""
        p = self.p
        self.wide = True
        if any(p.has(name) for name in ("moving_average", "decay", "var_eps")):
            self.fillers = ("scale_filler", "shift_filler")
            self.eps, self.keep = p.var_eps, 1 - p.decay
            self.stored = bool(p.moving_average) and not self.train_phase
        elif any(p.has(name) for name in ("bn_mode", "scale_filler", "shift_filler")):
            self.fillers = ("scale_filler", "shift_filler")
            self.eps, self.keep, self.stored = _SEGNET_EPS, 1.0, False
            self.running, self.merged = False, p.bn_mode == "INFERENCE"
        else:
            self.wide = False
            self.eps, self.keep = p.eps, p.momentum
            self.frozen = bool(p.frozen)
            self.stored = self.frozen or not self.train_phase

    def blob_shape(self, channels: int) -> Shape:
        """(1, C) in the forks of TSN and PSPNet, else (1, C, 1, 1)."""
        return (1, channels, 1, 1) if self.wide else (1, channels)


@register("CuDNNBatchNorm")
class CuDNNBatchNorm(ScaledNorm):
    """Batch normalisation with scale and bias: ``y = scale (x - mean) / sqrt(var + eps) + bias``.

    Stored statistics in the TEST phase or when ``frozen``, else the batch's.

    Bottoms:
        x: (N, C, ...).
    Tops:
        y: the same shape; may be in place.
    Blobs:
        scale, bias: (1, C, 1, 1), ``scale_filler`` and ``bias_filler`` (constant 0, as in Caffe).
        mean, variance: (1, C, 1, 1), ``blob = momentum blob + (1 - momentum) new`` in training,
        the variance over m - 1; no gradient reaches them.
    Parameters:
        momentum (0.9; moving_average_fraction stands in for it), eps (1e-5), frozen (false: else
        scale and bias are not trained either).
    ONNX:
        BatchNormalization.
    Caffe source:
        cudnn_batch_norm_layer.cpp of the SENet forks
    Differences:
        runs on the CPU too.
    """

    param_field = "batch_norm_param"
    fillers = ("scale_filler", "bias_filler")

    def configure(self) -> None:
        """Read the parameters."""
        p = self.p
        self.eps = p.eps
        other = p.has("moving_average_fraction") and not p.has("momentum")
        self.keep = p.moving_average_fraction if other else p.momentum
        self.frozen = bool(p.frozen)
        self.stored = self.frozen or not self.train_phase
        self.count = 1

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, scale and add."""
        self.count = x.numel() // max(1, x.shape[1])
        return super().forward(x)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        super()._follow(mean, variance * (self.count / max(1, self.count - 1)))
