"""Separable kernels: a vertical and a horizontal convolution.

    T [C kh, N kw],  T[(c, i), (n, j)] = W[n, c, i, j] = (U S V^T)[(c, i), (n, j)]
    NAME_v  kh x 1  (r, C, kh, 1)  = U_r S_r^1/2, stride (sh, 1), pad (ph, 0), dilation (dh, 1)
    NAME_h  1 x kw  (N, r, 1, kw)  = S_r^1/2 V_r^T, stride (1, sw), pad (0, pw), dilation (1, dw)

The closed form of Tai et al., "Convolutional neural networks with low-rank regularization", ICLR
2016, for scheme 2 of Jaderberg et al., BMVC 2014: the truncated SVD is the best there is, with the
tail of the singular values as error. Names are those of the reference's ``lowrank_approx.py``.

Depthwise layers are served too: every group has its own kernel, and a rank of one for each group
is a separable kernel.

MACs: ``r C / g kh * H' W + r N / g kw * H' W'``: the first map is not yet strided in the width.

Differences from the reference: NAME_v has no bias (there it has zeros that are frozen); groups,
rectangular kernels, dilation, layers without bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_bridge.compress.chain import Link, chain_blobs, chain_records
from caffe_bridge.compress.decompose.base import Decomposition, Rank, groups, register, total
from caffe_bridge.compress.eigen import split
from caffe_bridge.compress.target import Target
from caffe_bridge.schema import Record

VERTICAL, HORIZONTAL = "_v", "_h"


def kernel_refusal(target: Target, name: str) -> str:
    """Why a method that needs a kernel of two axes cannot serve a layer; empty if it can."""
    if target.is_fc:
        return f"{name} serves convolutions only; use pca or svd for fully connected layers"
    if len(target.kernel) != 2:
        return f"{name} needs two spatial axes, found {len(target.kernel)}; use pca or weight_svd"
    if target.kernel == (1, 1):
        return f"{name} separates nothing in a 1x1 kernel; use pca or svd"
    return ""


def unfolded(weight: np.ndarray) -> np.ndarray:
    """T [C kh, N kw] of a weight (N, C, kh, kw)."""
    filters, channels, height, width = weight.shape
    return weight.transpose(1, 2, 0, 3).reshape(channels * height, filters * width)


def separated(weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """A weight (N, C, kh, kw) as (rank, C, kh, 1) and (N, rank, 1, kw)."""
    filters, channels, height, width = weight.shape
    left, right = split(unfolded(weight), rank, 0.5)
    across = right.reshape(rank, filters, width).transpose(1, 0, 2)
    return left.T.reshape(rank, channels, height, 1), across[:, :, None, :]


@register("spatial")
class Spatial(Decomposition):
    """Vertical and horizontal kernels from the SVD of the weight between their axes."""

    serves_depthwise = True

    def refusal(self, target: Target) -> str:
        """Fully connected layers, 1x1 kernels and other than two axes are refused."""
        return kernel_refusal(target, self.name) or super().refusal(target)

    def unfold(self, weight: np.ndarray) -> np.ndarray:
        """T [C / g * kh, N / g * kw]."""
        return unfolded(weight)

    def records(self, layer: Record, rank: Rank) -> list[Record]:
        """NAME_v and NAME_h."""
        links = [Link(VERTICAL, total(rank), "h"), Link(HORIZONTAL, 0, "w")]
        return chain_records(layer, links)

    def blobs(self, target: Target, rank: Rank) -> list[list[np.ndarray]]:
        """Weights of both layers."""
        each = total(rank) // target.group
        parts = [separated(part, each) for part in groups(target.blob, target.group)]
        return chain_blobs(target, [np.concatenate(links) for links in zip(*parts, strict=True)])

    def macs(
        self, target: Target, rank: Rank, inputs: Sequence[int], outputs: Sequence[int]
    ) -> int:
        """``H' W r C / g kh + H' W' r N / g kw``."""
        each = total(rank)
        height, width = target.kernel
        down = outputs[0] * inputs[1] * each * target.shape[0] * height
        return down + outputs[0] * outputs[1] * each // target.group * target.num_output * width
