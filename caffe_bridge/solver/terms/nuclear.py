"""Low rank without forces: the nuclear norm's sub-gradient, and periodic projection.

Xu et al., "TRP: Trained Rank Pruning for Efficient Deep Neural Networks", IJCAI 2020. With the
thin decomposition W = U S V^T of a weight (n, K), each group of a convolution by itself:

    gradient += nuclear_decay force_mult U V^T            sub-gradient of |W|_* (section 3.3)
    W <- the matrix of least rank with |W_r|^2 >= lowrank_energy |W|^2,
                                                          every ``lowrank_period`` iterations

Singular values below 1e-6 of the largest count as zero in the sub-gradient. U V^T is found as
(W W^T)^(-1/2) W from the smaller Gram matrix in float64.

Differences: the sub-gradient is computed anew each iteration instead of being kept between
projections, so that a resumed run equals an uninterrupted one. The blobs are those with a
``force_mult``, which also scales the sub-gradient; a projection has no strength to scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.solver.rows import grouped_rows, like_weight
from caffe_bridge.solver.terms.base import TERMS, Term, truncated

#: Singular values at or below this share of the largest are zero.
CUTOFF = 1e-6


def polar_factor(rows: Tensor) -> Tensor:
    """U V^T of each matrix; (groups, n, K) in and out."""
    matrix = rows.double()
    wide = matrix.shape[1] <= matrix.shape[2]
    matrix = matrix if wide else matrix.transpose(1, 2)
    squares, vectors = torch.linalg.eigh(matrix @ matrix.transpose(1, 2))
    largest = squares[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
    # Squares are exact to about 1e-16 of the largest: the cut-off on them is CUTOFF squared.
    inverse = torch.where(squares > CUTOFF**2 * largest, squares.clamp_min(0).rsqrt(), 0.0)
    result = (vectors * inverse.unsqueeze(1)) @ (vectors.transpose(1, 2) @ matrix)
    return (result if wide else result.transpose(1, 2)).to(rows.dtype)


class _RankTerm(Term):
    """The blobs with two axes or more and a ``force_mult``."""

    def setup(self) -> None:
        """List the blobs that take part."""
        self.chosen = [
            index
            for index, blob in enumerate(self.blobs)
            if blob.force_mult and blob.value.ndim >= 2
        ]

    def require_blobs(self, field: str) -> None:
        """Refuse a setting that would do nothing.

        Raises:
            SolverError: no blob has a force_mult.
        """
        if not self.chosen:
            raise self.fail(
                f"{field} acts on blobs with a force_mult, and the net has none; give the "
                "convolutions 'param { force_mult: 1 }'."
            )


@TERMS.register("nuclear_decay")
class NuclearNorm(_RankTerm):
    """Sub-gradient of the nuclear norm."""

    order = 30

    def active(self) -> bool:
        """Whether the solver gives a ``nuclear_decay``."""
        if not self.solver.nuclear_decay:
            return False
        self.require_blobs("nuclear_decay")
        return True

    def add(self, weights: Sequence[Tensor], grads: Sequence[Tensor], iteration: int) -> None:
        """Add nuclear_decay force_mult U V^T."""
        for index in self.chosen:
            blob, weight = self.blobs[index], weights[index]
            factor = polar_factor(grouped_rows(weight, blob.group))
            grads[index].add_(
                like_weight(factor, weight), alpha=self.solver.nuclear_decay * blob.force_mult
            )


@TERMS.register("lowrank_period")
class LowRankProjection(_RankTerm):
    """Truncation of the weights every ``lowrank_period`` iterations."""

    order = 90

    def active(self) -> bool:
        """Whether the solver gives a ``lowrank_period``; checks it and ``lowrank_energy``."""
        period, energy = self.solver.lowrank_period, self.solver.lowrank_energy
        if period < 0:
            raise self.fail(f"lowrank_period {period} must be positive, or 0 for none.")
        if not period:
            return False
        if not 0 < energy <= 1:
            raise self.fail(f"lowrank_energy {energy:g} must be above 0 and at most 1.")
        self.require_blobs("lowrank_period")
        return True

    def project(self, weights: Sequence[Tensor], iteration: int) -> None:
        """Truncate after every ``lowrank_period``-th update."""
        if (iteration + 1) % self.solver.lowrank_period:
            return
        for index in self.chosen:
            weight = weights[index]
            rows = grouped_rows(weight, self.blobs[index].group)
            weight.copy_(like_weight(truncated(rows, self.solver.lowrank_energy), weight))
