"""Forces of several weights with few filters on the CPU, added in one go.

The formulae are those of :mod:`caffe_bridge.solver.force`. In a step of a small net every call
costs more than its arithmetic, because its code and data are no longer in the caches: the cosines
of all weights therefore lie in one array, whose algebra numpy does once for all of them, and the
views of the weights are made once. It starts from half the squared distance, 1 - cosine.
Degradation is the case K_ij = 1; its way in O(n K) is taken from more than :data:`FEW` filters on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.solver.force import BLOCKED, FAR, NEAR, TAU
from caffe_bridge.solver.rows import grouped_rows, is_channels_last

#: Filters up to which a matrix of cosines is no dearer than Degradation's own way.
FEW = 64


@dataclass(frozen=True)
class _Part:
    """One group of one weight: its filters, and where its cosines and its A lie."""

    index: int
    rows: Tensor
    turned: Tensor
    gram: Tensor
    matrix: Tensor
    #: Elements of the gradient before the group's first.
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def is_small(weight: Tensor, groups: int, power: int) -> bool:
    """Whether a weight's force may be computed here: on the CPU, dense, with few filters."""
    few = weight.shape[0] // groups < (BLOCKED if power else FEW + 1)
    dense = weight.is_contiguous() or is_channels_last(weight)
    return bool(few and dense and weight.is_cpu and weight.dtype == torch.float32)


class SmallForces:
    """Adds the pair forces of some weights to their gradients.

    Args:
        weights: (n, ...) by index, none of which may get another storage later; each
            :func:`is_small`.
        groups: number of row blocks of each weight that do not interact.
        power: of the distance that divides w_j - w_i; 0 is Degradation.
    """

    def __init__(
        self, weights: Mapping[int, Tensor], groups: Mapping[int, int], power: int
    ) -> None:
        self.weights, self.power = dict(weights), power
        self.places = [weight.data_ptr() for weight in self.weights.values()]
        self.strides = [(index, weight.stride()) for index, weight in self.weights.items()]
        made = [
            (index, group, rows)
            for index, weight in self.weights.items()
            for group, rows in enumerate(grouped_rows(weight, groups[index]))
        ]
        most = max(rows.shape[0] for _, _, rows in made)
        # Filters that only fill up have length 1 and no cosine: they exert nothing.
        grams = torch.eye(most).repeat(len(made), 1, 1)
        matrices = torch.zeros_like(grams)
        self.gram, self.matrix = grams.numpy(), matrices.numpy()
        self.cosine, self.half = np.empty_like(self.gram), np.empty_like(self.gram)
        self.lengths, self.inverse = np.empty((2, len(made), most), np.float32)
        self.squares, self.of_cosine, self.of_half, self.of_matrix = (
            x.reshape(len(made), -1)[:, :: most + 1]
            for x in (self.gram, self.cosine, self.half, self.matrix)
        )
        self.parts = [
            _Part(index, rows, rows.t(), grams[i, : len(rows), : len(rows)],
                  matrices[i, : len(rows), : len(rows)], group * rows.numel(), rows.shape,
                  rows.stride())
            for i, (index, group, rows) in enumerate(made)
        ]  # fmt: skip

    def fits(self, weights: Sequence[Tensor]) -> bool:
        """Whether the weights still lie where they lay."""
        return self.places == [weights[index].data_ptr() for index in self.weights]

    def add(self, grads: Sequence[Tensor], strengths: Mapping[int, float]) -> set[int]:
        """``gradient += strength G`` for every weight whose filters are not near each other.

        Args:
            grads: all gradients; those of the weights are changed.
            strengths: by index.

        Returns:
            The indexes of these. Others are left alone: two filters are near, one has no length,
            or the gradient lies otherwise in memory than the weight.
        """
        for part in self.parts:
            torch.mm(part.rows, part.turned, out=part.gram)
        done = {i for i, stride in self.strides if grads[i].stride() == stride}
        if not self._matrices():
            done -= self._crowded()
        factor = -(2 ** (-self.power / 2))
        for part in self.parts:
            if part.index in done:
                target = grads[part.index]
                target = target.as_strided(
                    part.shape, part.stride, target.storage_offset() + part.start
                )
                target.addmm_(part.matrix, part.rows, alpha=strengths[part.index] * factor)
        return done

    def _crowded(self) -> set[int]:
        """Weights that have a filter without length or two filters near each other."""
        short = self.lengths.min(axis=1) <= TAU
        crowded = short | (self.half.min(axis=(1, 2)) < NEAR / 2) if self.power else short
        return {part.index for part, bad in zip(self.parts, crowded, strict=True) if bad}

    def _matrices(self) -> bool:
        """Turn the products of the filters into -2^(p/2) A; False if some part is crowded."""
        cosine, half, kernel, inverse = self.cosine, self.half, self.matrix, self.inverse
        with np.errstate(divide="ignore", invalid="ignore"):
            np.sqrt(self.squares, out=self.lengths)
            np.reciprocal(self.lengths, out=inverse)
            np.multiply(self.gram, inverse[:, :, None], out=cosine)
            np.multiply(cosine, inverse[:, None, :], out=cosine)
            if self.power == 0:
                self.of_cosine[:] = 0
                np.multiply(self.lengths[:, :, None], inverse[:, None, :], out=kernel)
                np.negative(np.add.reduce(cosine, axis=2), out=self.of_matrix)
                return bool(np.minimum.reduce(self.lengths, axis=None) > TAU)
            np.subtract(1, cosine, out=half)
            self.of_half[:] = FAR
            if self.power == 1:
                np.sqrt(half, out=kernel)
                np.reciprocal(kernel, out=kernel)
            else:
                np.power(half, -self.power / 2, out=kernel)
            self.of_matrix[:] = 0
            np.multiply(kernel, cosine, out=cosine)
            np.multiply(kernel, self.lengths[:, :, None], out=kernel)
            np.multiply(kernel, inverse[:, None, :], out=kernel)
            np.subtract(self.of_matrix, np.add.reduce(cosine, axis=2), out=self.of_matrix)
        # A NaN compares as False: filters without length come out as crowded.
        least, nearest = (np.minimum.reduce(x, axis=None) for x in (self.lengths, half))
        return bool(least > TAU and nearest >= NEAR / 2)
