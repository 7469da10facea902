"""Weight SVD: a 1x1 convolution that reduces the channels, then the kernel on few channels.

    T [C, N kh kw],  T[c, (n, i, j)] = W[n, c, i, j] = (U S V^T)[c, (n, i, j)]
    NAME_lowrank  1x1     (r, C, 1, 1)    = (U_r S_r^a)^T
    NAME_linear   kh x kw (N, r, kh, kw)  = S_r^(1-a) V_r^T, with stride, pad and dilation

The rank is that of the input side, which is not the filters' rank: a net trained so that its
filters agree has few principal filters, and as many input directions as before. ``balance`` places
the scale as for :mod:`svd <caffe_bridge.compress.decompose.svd>`: "both" (a = 1/2), "first" (1),
"second" (0).

Reference: the same split appears as "weight SVD" in model compression toolkits; its error is that
of the truncated SVD of T (Eckart and Young). Any number of spatial axes; groups each for itself.

MACs: ``r C / g * positions of the bottom + r N / g kh kw * positions of the top``. Cheap where the
stride is 1; the better form for ranks below the runtime's channel block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from caffe_bridge.compress.chain import KEEP, POINT, Link, chain_blobs, chain_records, pointwise
from caffe_bridge.compress.decompose.base import (
    LINEAR,
    LOWRANK,
    Decomposition,
    Rank,
    groups,
    register,
    total,
)
from caffe_bridge.compress.eigen import split
from caffe_bridge.compress.target import Target
from caffe_bridge.schema import Record

_EXPONENT = {"first": 1.0, "both": 0.5, "second": 0.0}


@register("weight_svd")
class WeightSvd(Decomposition):
    """Truncated SVD between the input channels and everything else.

    Args:
        balance: which layer holds the singular values: "first", "both" or "second".
    """

    counts_filters = False
    options = {"balance": tuple(_EXPONENT)}

    def __init__(self, balance: str = "both") -> None:
        self.balance = balance

    def refusal(self, target: Target) -> str:
        """Fully connected layers, for which it is the plain SVD, are refused."""
        if target.is_fc:
            return "weight_svd serves convolutions only; use svd, which is the same there"
        return super().refusal(target)

    def unfold(self, weight: np.ndarray) -> np.ndarray:
        """T [C / g, N / g * kernel]."""
        swapped = np.moveaxis(weight, 1, 0)
        return np.ascontiguousarray(swapped).reshape(len(swapped), -1)

    def records(self, layer: Record, rank: Rank) -> list[Record]:
        """The 1x1 layer and the layer with the kernel."""
        return chain_records(layer, [Link(LOWRANK, total(rank), POINT), Link(LINEAR, 0, KEEP)])

    def blobs(self, target: Target, rank: Rank) -> list[list[np.ndarray]]:
        """Weights of both layers."""
        each = total(rank) // target.group
        first, second = [], []
        for part in groups(target.blob, target.group):
            left, right = split(self.unfold(part), each, _EXPONENT[self.balance])
            first.append(left.T)
            second.append(np.moveaxis(right.reshape(each, len(part), *target.kernel), 0, 1))
        reduced = pointwise(np.concatenate(first), len(target.kernel))
        return chain_blobs(target, [reduced, np.concatenate(second)])

    def macs(
        self, target: Target, rank: Rank, inputs: Sequence[int], outputs: Sequence[int]
    ) -> int:
        """``P_in r C / g + P r N / g * kernel``."""
        each = total(rank)
        before = math.prod(inputs) * each * target.shape[0]
        kernel = each // target.group * target.num_output * math.prod(target.kernel)
        return before + math.prod(outputs) * kernel
