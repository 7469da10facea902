"""BatchNorm: normalisation by the statistics of the batch or of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer
from caffe_bridge.layers.registry import register


@register("BatchNorm")
class BatchNorm(Layer):
    """Batch normalisation without scale and bias: ``y = (x - mean) / sqrt(var + eps)``.

    Mean and variance are per channel (axis 1) over all other axes: those of the batch (variance
    over m, not m - 1), or with use_global_stats the stored sums over the stored weight.

    Bottoms:
        x: (N, C, *rest), any rank; a vector (N,) counts as one channel.
    Tops:
        y: the same shape; may be in place.
    Blobs:
        mean: (C,), decayed sum of batch means.
        variance: (C,), decayed sum of batch variances, each times m / (m - 1).
        weight: (1,), decayed count of batches; 0 makes mean and variance 0.
        No gradient reaches them; a forward pass with batch statistics updates them by
        ``blob = moving_average_fraction * blob + new``.
    Parameters:
        use_global_stats (in the TEST phase), moving_average_fraction (0.999), eps (1e-5).
    ONNX:
        BatchNormalization; with batch statistics the formula in ReduceMean, Mul, Sqrt, Div.
    Caffe source:
        batch_norm_layer.cpp
    Differences:
        a ``param`` that gives the blobs an lr_mult is not an error; they are never trained.
    """

    param_field = "batch_norm_param"
    #: Normalises by the batch's statistics; processes that share theirs put another one here.
    normalise: Callable[..., Tensor] = staticmethod(functional.batch_norm)

    @property
    def use_global_stats(self) -> bool:
        """Whether the stored statistics are used; given explicitly, or by the phase."""
        if self.p.has("use_global_stats"):
            return bool(self.p.use_global_stats)
        return not self.train_phase

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Mean, variance and weight, all zero."""
        channels = 1 if len(shapes[0]) == 1 else shapes[0][1]
        return [BlobSpec((size,), role="statistic") for size in (channels, channels, 1)]

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shape of the bottom."""
        if not shapes[0]:
            self.fail("takes a bottom with at least one axis, found a scalar.")
        return [tuple(shapes[0])]

    @torch.no_grad()
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Stored mean and variance, (C,) each."""
        weight = self.blobs[2]
        factor = torch.where(weight == 0, torch.zeros_like(weight), 1 / weight)
        return self.blobs[0] * factor, self.blobs[1] * factor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; with batch statistics also update the stored ones."""
        flat = x.reshape(-1, 1) if x.ndim == 1 else x
        if flat.shape[1] != self.blobs[0].shape[0]:
            self.fail(
                f"was built for {self.blobs[0].shape[0]} channels, bottom shape is "
                f"{tuple(x.shape)}."
            )
        if self.use_global_stats:
            mean, variance = self.statistics()
            y = functional.batch_norm(flat, mean, variance, training=False, eps=self.p.eps)
        elif flat.numel() == flat.shape[1]:
            # One value per channel: torch refuses it, Caffe gives 0 and stores variance 0.
            y = flat - flat
            self._store(flat.detach().flatten(), torch.zeros_like(self.blobs[1]))
        else:
            mean, variance = torch.zeros_like(self.blobs[0]), torch.zeros_like(self.blobs[1])
            # With momentum 1 torch leaves the batch mean and the unbiased variance there.
            y = self.normalise(flat, mean, variance, training=True, momentum=1.0, eps=self.p.eps)
            self._store(mean, variance)
        return y.reshape(x.shape)

    @torch.no_grad()
    def _store(self, mean: Tensor, variance: Tensor) -> None:
        fraction = self.p.moving_average_fraction
        for blob, new in zip(self.blobs, (mean, variance, 1.0), strict=True):
            blob.mul_(fraction).add_(new)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """BatchNormalization with the stored statistics, or the formula."""
        shape = e.shape(bottoms[0])
        eps = float(self.p.eps)
        mean, variance = (v.detach().cpu().numpy().astype(np.float32) for v in self.statistics())
        if self.use_global_stats and len(shape) > 1:
            ones, zeros = np.ones_like(mean), np.zeros_like(mean)
            values = {"scale": ones, "bias": zeros, "mean": mean, "variance": variance}
            names = [e.constant(value, hint) for hint, value in values.items()]
            e.op("BatchNormalization", [bottoms[0], *names], tops, epsilon=eps)
            return
        if self.use_global_stats:
            centre = e.constant(mean, "mean")
            deviation = e.constant(np.sqrt(variance + np.float32(eps)), "deviation")
            (centred,) = e.op("Sub", [bottoms[0], centre])
            e.op("Div", [centred, deviation], tops)
            return
        axes = [axis for axis in range(len(shape)) if axis != 1]
        (centred,) = e.op("Sub", [bottoms[0], e.reduce("ReduceMean", bottoms[0], axes)])
        (square,) = e.op("Mul", [centred, centred])
        spread = e.reduce("ReduceMean", square, axes)
        (spread,) = e.op("Add", [spread, e.constant(np.array(eps, np.float32), "eps")])
        (deviation,) = e.op("Sqrt", [spread])
        e.op("Div", [centred, deviation], tops)
