"""BatchNorm: normalisation by the statistics of the batch or of training; three dialects."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer
from caffe_bridge.layers.registry import register
from caffe_bridge.schema import Record, StoredBlob

#: Least eps that NVCaffe's cuDNN takes.
_NVCAFFE_EPS = 1e-5


@register("BatchNorm")
class BatchNorm(Layer):
    """Batch normalisation: ``y = (x - mean) / sqrt(var + eps)``, in two forks also scaled.

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
        scale, bias (forks): (C,), ``scale_filler`` or ``filler`` (constant 1), ``bias_filler``
        (constant 0); the result is multiplied by scale, then bias is added.
    Parameters:
        use_global_stats (in the TEST phase), moving_average_fraction (0.999), eps (1e-5).
        NVCaffe: ``scale_bias`` (or one of the fillers) adds scale and bias; statistics are then
        means, not sums (``blob = f blob + (1 - f) new``, the first two batches replace them, the
        variance over m), the weight stays 1 and a stored weight of 0 counts as 1; eps is at
        least 1e-5.
        Intel: ``use_weight_bias`` adds scale and, unless ``bias_term: false``, bias; ``relu``
        rectifies the result.
    ONNX:
        BatchNormalization; with batch statistics the formula in ReduceMean, Mul, Sqrt, Div.
    Caffe source:
        batch_norm_layer.cpp of BVLC, NVCaffe and Intel
    Differences:
        a ``param`` that gives the statistics an lr_mult is not an error; they are never trained.
    """

    param_field = "batch_norm_param"
    #: Normalises by the batch's statistics; processes that share theirs put another one here.
    normalise: Callable[..., Tensor] = staticmethod(functional.batch_norm)
    #: How many processes share their statistics.
    sharing: int = 1
    carried = ("batches",)

    def configure(self) -> None:
        """Find the dialect by its parameters."""
        p = self.p
        intel = p.has("use_weight_bias") or p.has("filler")
        self.means = not intel and bool(
            p.scale_bias or p.has("scale_filler") or p.has("bias_filler")
        )
        self.scaled = self.means or (intel and bool(p.use_weight_bias))
        self.biased = self.means or (self.scaled and bool(p.bias_term))
        self.eps = max(float(p.eps), _NVCAFFE_EPS) if self.means else float(p.eps)
        self.batches = 0

    @property
    def use_global_stats(self) -> bool:
        """Whether the stored statistics are used; given explicitly, or by the phase."""
        if self.p.has("use_global_stats"):
            return bool(self.p.use_global_stats)
        return not self.train_phase

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Mean, variance and weight, all zero (weight 1 in NVCaffe), then scale and bias."""
        channels = 1 if len(shapes[0]) == 1 else shapes[0][1]
        specs = [BlobSpec((size,), role="statistic") for size in (channels, channels)]
        one = Record("FillerParameter", type="constant", value=1.0)
        specs.append(BlobSpec((1,), one if self.means else None, "statistic"))
        if self.scaled:
            name = "scale_filler" if self.means else "filler"
            specs.append(BlobSpec((channels,), getattr(self.p, name) if self.p.has(name) else one))
        if self.biased:
            specs.append(BlobSpec((channels,), self.p.bias_filler, "bias"))
        return specs

    def adapt_blobs(self, stored: list[StoredBlob | None]) -> list[StoredBlob | None]:
        """NVCaffe wrote a weight of 0 beside true means: it counts as 1."""
        if self.means and len(stored) == 5 and stored[2] is not None:
            weight = np.asarray(stored[2].values, np.float32)
            if not weight.any():
                ones = StoredBlob(stored[2].shape, stored[2].legacy, np.ones_like(weight))
                return [*stored[:2], ones, *stored[3:]]
        return stored

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
            y = functional.batch_norm(flat, mean, variance, training=False, eps=self.eps)
        elif flat.numel() == flat.shape[1]:
            # One value per channel: torch refuses it, Caffe gives 0 and stores variance 0.
            y = flat - flat
            self._store(flat.detach().flatten(), torch.zeros_like(self.blobs[1]))
        else:
            mean, variance = torch.zeros_like(self.blobs[0]), torch.zeros_like(self.blobs[1])
            # With momentum 1 torch leaves the batch mean and the unbiased variance there.
            y = self.normalise(flat, mean, variance, training=True, momentum=1.0, eps=self.eps)
            self._store(mean, variance, self.sharing * flat.numel() // flat.shape[1])
        return self._finish(y).reshape(x.shape)

    def _finish(self, y: Tensor) -> Tensor:
        """Scale, bias and rectifier of the forks."""
        if self.scaled:
            y = y * self.blobs[3].reshape(-1, *(1,) * (y.ndim - 2))
        if self.biased:
            y = y + self.blobs[4].reshape(-1, *(1,) * (y.ndim - 2))
        return torch.relu(y) if self.p.relu else y

    @torch.no_grad()
    def _store(self, mean: Tensor, variance: Tensor, count: int = 1) -> None:
        fraction = float(self.p.moving_average_fraction)
        if self.means:
            fraction = fraction if self.batches > 1 else 0.0
            # Only the first two passes differ; a number that rests lets a compiled pass stay.
            self.batches = min(self.batches + 1, 2)
            mean, variance = (v * (1 - fraction) for v in (mean, variance * ((count - 1) / count)))
        else:
            self.blobs[2].mul_(fraction).add_(1.0)
        self.blobs[0].mul_(fraction).add_(mean)
        self.blobs[1].mul_(fraction).add_(variance)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """BatchNormalization with the stored statistics, or the formula."""
        shape = e.shape(bottoms[0])
        mean, variance = (v.detach().cpu().numpy().astype(np.float32) for v in self.statistics())
        scale = self._blob(3) if self.scaled else np.ones_like(mean)
        bias = self._blob(4) if self.biased else np.zeros_like(mean)
        rectified = bool(self.p.relu)
        made: int | Sequence[str] = 1 if rectified else tops
        if self.use_global_stats and len(shape) > 1:
            values = {"scale": scale, "bias": bias, "mean": mean, "variance": variance}
            names = [e.constant(value, hint) for hint, value in values.items()]
            (y,) = e.op("BatchNormalization", [bottoms[0], *names], made, epsilon=self.eps)
        else:
            y = self._emit_formula(e, bottoms[0], len(shape), (mean, variance), made)
        if rectified:
            e.op("Relu", [y], tops)

    def _blob(self, index: int) -> np.ndarray:
        return self.blobs[index].detach().cpu().numpy().astype(np.float32)

    def _emit_formula(
        self, e: Emitter, x: str, rank: int, stored: tuple[np.ndarray, np.ndarray],
        made: int | Sequence[str],
    ) -> str:  # fmt: skip
        if self.use_global_stats:
            (centred,) = e.op("Sub", [x, e.constant(stored[0], "mean")])
            deviation = e.constant(np.sqrt(stored[1] + np.float32(self.eps)), "deviation")
        else:
            axes = [axis for axis in range(rank) if axis != 1]
            (centred,) = e.op("Sub", [x, e.reduce("ReduceMean", x, axes)])
            (square,) = e.op("Mul", [centred, centred])
            spread = e.reduce("ReduceMean", square, axes)
            (spread,) = e.op("Add", [spread, e.constant(np.array(self.eps, np.float32), "eps")])
            (deviation,) = e.op("Sqrt", [spread])
        (y,) = e.op("Div", [centred, deviation], 1 if self.scaled else made)
        if self.scaled:
            line = (-1, *(1,) * max(0, rank - 2))
            scale = e.constant(self._blob(3).reshape(line), "scale")
            (y,) = e.op("Mul", [y, scale], 1 if self.biased else made)
        if self.biased:
            (y,) = e.op("Add", [y, e.constant(self._blob(4).reshape(line), "bias")], made)
        return y
