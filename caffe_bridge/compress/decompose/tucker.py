"""Tucker-2: a 1x1 convolution, a small core with the kernel, and a 1x1 convolution.

    W  ~=  G x_0 U x_1 V,   U [N, r_out], V [C, r_in] orthonormal,   G = W x_0 U^T x_1 V^T
    NAME_in    1x1      (r_in, C, 1, 1)          = V^T
    NAME_core  kh x kw  (r_out, r_in, kh, kw)    = G, with stride, pad and dilation
    NAME_out   1x1      (N, r_out, 1, 1)         = U, and the bias

U and V start as the leading left singular vectors of the unfoldings of the filters and of the
channels (HOSVD), and alternate: U from the unfolding of W x_1 V^T, V from that of W x_0 U^T (HOOI),
until the energy of the core settles. No step lowers that energy, so that

    ||W - W_r||^2 = ||W||^2 - ||G||^2  <=  tail of the filters + tail of the channels.

Reference: Kim et al., "Compression of deep convolutional neural networks for fast and low power
mobile applications", ICLR 2016; De Lathauwer et al., 2000 (HOOI).

Two ranks: ``[r_in, r_out]``, totals over the groups. One number r means min(r, C) and min(r, N). A
ratio allows half of the error for each side. G has no more directions on one side than numbers on
the other, so that ``r_out <= r_in kh kw`` and ``r_in <= r_out kh kw``.

MACs: ``r_in C / g * bottom + (r_in r_out / g * kernel + r_out N / g) * top``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np

from caffe_bridge.compress.chain import KEEP, POINT, Link, chain_blobs, chain_records, pointwise
from caffe_bridge.compress.decompose.base import (
    Decomposition,
    Rank,
    groups,
    register,
    residual,
)
from caffe_bridge.compress.eigen import eigen, remembered
from caffe_bridge.compress.rank.energy import halved, rank_for
from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError
from caffe_bridge.schema import Record

IN, CORE, OUT = "_in", "_core", "_out"
_SWEEPS = 20
_SETTLED = 1e-10


def _mode(weight: np.ndarray, axis: int) -> np.ndarray:
    moved = np.moveaxis(weight, axis, 0)
    return np.ascontiguousarray(moved).reshape(len(moved), -1)


def _along(weight: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """``weight x_axis matrix``, the matrix [new, old]."""
    return np.moveaxis(np.tensordot(matrix, weight, (1, axis)), 0, axis)


def tucker2(weight: np.ndarray, rank_in: int, rank_out: int) -> tuple[np.ndarray, ...]:
    """U [N, r_out], G (r_out, r_in, *kernel) and V [C, r_in] of one group's weight."""
    left = eigen(_mode(weight, 0)).vectors[:, :rank_out]
    right = eigen(_mode(weight, 1)).vectors[:, :rank_in]
    before = -1.0
    for _ in range(_SWEEPS):
        left = eigen(_mode(_along(weight, right.T, 1), 0)).vectors[:, :rank_out]
        right = eigen(_mode(_along(weight, left.T, 0), 1)).vectors[:, :rank_in]
        core = _along(_along(weight, left.T, 0), right.T, 1)
        energy = float((core**2).sum())
        if energy - before <= _SETTLED * energy:
            break
        before = energy
    return left, core, right


@register("tucker")
class Tucker(Decomposition):
    """Tucker-2 on filters and channels."""

    rank_names = ("rank_in", "rank_out")

    def refusal(self, target: Target) -> str:
        """Fully connected layers and 1x1 kernels are refused: three layers for what two do."""
        if target.is_fc or math.prod(target.kernel) == 1:
            what = "a 1x1 kernel" if target.kernel else "a fully connected layer"
            return f"tucker makes three layers of {what} where pca makes two; use pca"
        return super().refusal(target)

    def ranks(self, target: Target, rank: Rank) -> Rank:
        """``[r_in, r_out]``; one number is cut to the channels and the filters."""
        most = self.max_rank(target.blob, target.group)
        if isinstance(rank, int):
            rank = (rank, rank)
            return tuple(min(r, m) for r, m in zip(rank, _two(most), strict=True))
        if len(rank) != 2:
            raise PlanError(f"{target.label}: tucker has two ranks, [in, out]; found {list(rank)}.")
        return rank

    def max_rank(self, weight: np.ndarray, group: int = 1) -> Rank:
        """``(C, N)``, or less where a side has fewer directions than vectors."""
        part = weight[: len(weight) // group]
        both = (min(_mode(part, axis).shape) for axis in (1, 0))
        return tuple(group * most for most in both)

    def misfit(self, target: Target, rank: Rank) -> str:
        """The core has as many directions on a side as entries on the other, and no more."""
        inner, outer = _two(rank)
        volume = math.prod(target.kernel)
        for (name, much), (other, little) in permutations(
            zip(self.rank_names, (inner, outer), strict=True)
        ):
            if much > little * volume:
                return (
                    f"{name} {much} is above {other} times the {volume} positions of the kernel; "
                    f"with {other} {little} use {name} {little * volume} or less"
                )
        return ""

    def spectrum(self, weight: np.ndarray, group: int = 1) -> list[np.ndarray]:
        """There is one for each side."""
        raise PlanError("tucker has a spectrum for each of its two sides, not one.")

    def choose(
        self, weight: np.ndarray, group: int, ratio: float, rule: str, spectra: object = None
    ) -> Rank:
        """Ranks of both sides by a rule, each with half of the error.

        One that the other side leaves no room for is cut, by which nothing more is lost.
        """
        parts = groups(weight, group)
        ranks = []
        for axis in (1, 0):
            unfolded = [_mode(part, axis) for part in parts]
            found = [eigen(matrix).values for matrix in unfolded]
            rows, columns = unfolded[0].shape
            ranks.append(rank_for(found, halved(ratio, rule), rule, (rows, columns)))
        inner, outer = ranks
        volume = math.prod(weight.shape[2:])
        return min(inner, outer * volume), min(outer, inner * volume)

    def _factors(self, part: np.ndarray, rank: Rank, group: int) -> tuple[np.ndarray, ...]:
        each = [r // group for r in _two(rank)]
        return remembered(f"tucker {each}", part, lambda array: tucker2(array, *each))

    def predicted_error(
        self, weight: np.ndarray, rank: Rank, group: int = 1, spectra: object = None
    ) -> float:
        """Relative error of the product of the three factors."""
        made = []
        for part in groups(weight, group):
            left, core, right = self._factors(part, rank, group)
            made.append(_along(_along(core, left, 0), right, 1))
        return residual(weight, made)

    def records(self, layer: Record, rank: Rank) -> list[Record]:
        """NAME_in, NAME_core and NAME_out."""
        inner, outer = _two(rank)
        links = [Link(IN, inner, POINT), Link(CORE, outer, KEEP), Link(OUT, 0, POINT)]
        return chain_records(layer, links)

    def blobs(self, target: Target, rank: Rank) -> list[list[np.ndarray]]:
        """Weights of the three layers."""
        axes = len(target.kernel)
        found = [
            self._factors(part, rank, target.group) for part in groups(target.blob, target.group)
        ]
        left, core, right = zip(*found, strict=True)
        first = pointwise(np.concatenate([v.T for v in right]), axes)
        last = pointwise(np.concatenate(left), axes)
        return chain_blobs(target, [first, np.concatenate(core), last])

    def macs(
        self, target: Target, rank: Rank, inputs: Sequence[int], outputs: Sequence[int]
    ) -> int:
        """``P_in r_in C / g + P (r_in r_out / g * kernel + r_out N / g)``."""
        inner, outer = _two(rank)
        kernel = inner * outer // target.group * math.prod(target.kernel)
        after = outer // target.group * target.num_output
        return math.prod(inputs) * inner * target.shape[0] + math.prod(outputs) * (kernel + after)


def _two(rank: Rank) -> tuple[int, int]:
    return (rank, rank) if isinstance(rank, int) else (rank[0], rank[-1])
