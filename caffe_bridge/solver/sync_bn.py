"""BatchNorm over the batches of all processes (``--sync-bn``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from caffe_bridge.layers.batch_norm import BatchNorm
from caffe_bridge.net import Built

#: Adds a tensor over all ranks, in place.
Add = Callable[[Tensor], None]


class _Sum(torch.autograd.Function):
    """Sum over the ranks; the gradient of a sum that every rank uses is the sum of gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, add: Add) -> Tensor:
        """The sum."""
        ctx.add = add
        total = x.clone()
        add(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The sum of all ranks' gradients."""
        total = gradient.clone()
        ctx.add(total)
        return total, None


def share_statistics(built: Built, add: Add, ranks: int) -> int:
    """Let the BatchNorm layers of a net use statistics of all ranks; returns how many do."""

    def normalise(
        x: Tensor, mean: Tensor, variance: Tensor, training: bool, momentum: float, eps: float
    ) -> Tensor:
        """As torch's batch_norm with training and momentum 1, over the batches of all ranks."""
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = _Sum.apply(torch.cat([x.sum(axes), count]), add)
        total = float(sums[-1].detach())
        centre = sums[:-1] / total
        centred = x - centre.reshape(shape)
        spread = _Sum.apply(centred.square().sum(axes), add) / total
        with torch.no_grad():
            mean.copy_(centre)
            variance.copy_(spread * (total / max(1.0, total - 1.0)))
        result: Tensor = centred * (spread + eps).rsqrt().reshape(shape)
        return result

    found = [x for x in built.layers if isinstance(x, BatchNorm) and not x.use_global_stats]
    for layer in found:
        layer.normalise, layer.sharing = normalise, ranks
    return len(found)
