"""CP: four convolutions, two of them depthwise, for a sum of r products of vectors.

    W[n, c, i, j]  ~=  sum_r A[n, r] B[c, r] H[i, r] V[j, r]
    NAME_in   1x1                (r, C, 1, 1)   = B^T
    NAME_v    kh x 1, depthwise  (r, 1, kh, 1)  = H^T
    NAME_h    1 x kw, depthwise  (r, 1, 1, kw)  = V^T
    NAME_out  1x1                (N, r, 1, 1)   = A, and the bias

Alternating least squares: with the others fixed, a factor is ``M (Q + rho I)^-1``, where M is the
weight times the products of the others and Q the Hadamard product of their Gram matrices. Factors
start as leading singular vectors of the unfoldings, filled up with seeded random ones.

Best approximations of a rank need not exist: components may grow without bound and cancel. The
guard: a fit is refused when the components' squared norms sum to more than ten times that of the
weight, and the ridge rho is raised until one passes. Lebedev et al., "Speeding-up convolutional
neural networks using fine-tuned CP-decomposition", ICLR 2015; on degeneracy Phan et al., ECCV 2020.

At ``max_rank`` the sum has one term for each entry of the three shortest axes and is exact. There
is no spectrum: ranks must be given. MACs: ``r C / g * bottom + r kh * H' W + r kw * H' W' + r N / g
* H' W'``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from caffe_bridge.compress.chain import POINT, Link, chain_blobs, chain_records, pointwise
from caffe_bridge.compress.decompose.base import (
    Decomposition,
    Rank,
    groups,
    register,
    residual,
    total,
)
from caffe_bridge.compress.decompose.spatial import HORIZONTAL, VERTICAL, kernel_refusal
from caffe_bridge.compress.decompose.tucker import IN, OUT
from caffe_bridge.compress.eigen import remembered
from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError
from caffe_bridge.schema import Record

_SEED = 0
_ITERATIONS = 200
_SETTLED = 1e-7
#: Ridges to try, relative to the mean of the diagonal of Q.
_RIDGES = (1e-10, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
#: Largest sum of the components' squared norms, relative to the weight's.
_DEGENERATE = 10.0

Factors = tuple[np.ndarray, ...]


def _start(weight: np.ndarray, rank: int) -> list[np.ndarray]:
    random = np.random.default_rng(_SEED)
    factors = []
    for axis, size in enumerate(weight.shape):
        unfolded = np.moveaxis(weight, axis, 0).reshape(size, -1)
        vectors = np.linalg.eigh(unfolded @ unfolded.T)[1][:, ::-1][:, :rank]
        more = random.standard_normal((size, rank - vectors.shape[1])) / math.sqrt(size)
        factors.append(np.concatenate([vectors, more], axis=1))
    return factors


def _product(factors: Sequence[np.ndarray]) -> np.ndarray:
    a, b, h, v = factors
    right = np.einsum("cr,ir,jr->rcij", b, h, v)
    return (a @ right.reshape(len(right), -1)).reshape(len(a), *right.shape[1:])


def _gram(factors: Sequence[np.ndarray]) -> np.ndarray:
    made = np.ones((factors[0].shape[1],) * 2)
    for factor in factors:
        made *= factor.T @ factor
    return made


def _solved(weighted: np.ndarray, others: Sequence[np.ndarray], ridge: float) -> np.ndarray:
    gram = _gram(others)
    # The smallest number keeps a zero weight solvable; its factors stay zero.
    gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram) + np.finfo(float).tiny
    return np.linalg.solve(gram, weighted.T).T


def _balance(factors: list[np.ndarray]) -> float:
    """Give the four vectors of a component one norm; returns the sum of squared norms."""
    norms = np.array([np.linalg.norm(factor, axis=0) for factor in factors])
    whole = norms.prod(axis=0)
    for factor, norm in zip(factors, norms, strict=True):
        factor *= whole**0.25 / np.where(norm > 0, norm, 1.0)
    return float((whole**2).sum())


def _als(weight: np.ndarray, rank: int, ridge: float) -> tuple[Factors, float]:
    """Factors, and the sum of the components' squared norms."""
    factors = _start(weight, rank)
    flat = weight.reshape(len(weight), -1)
    norm = float((weight**2).sum())
    before, components = math.inf, 0.0
    for _ in range(_ITERATIONS):
        right = np.einsum("cr,ir,jr->cijr", *factors[1:]).reshape(flat.shape[1], rank)
        factors[0] = _solved(flat @ right, factors[1:], ridge)
        partial = (flat.T @ factors[0]).reshape(*weight.shape[1:], rank)
        for axis, terms in ((1, "cijr,ir,jr->cr"), (2, "cijr,cr,jr->ir"), (3, "cijr,cr,ir->jr")):
            others = [factors[other] for other in range(1, 4) if other != axis]
            weighted = np.einsum(terms, partial, *others, optimize=True)
            factors[axis] = _solved(weighted, [factors[0], *others], ridge)
        # ||W - W_r||^2 from the last normal equations, without forming W_r.
        left = norm - 2 * float((weighted * factors[3]).sum()) + float(_gram(factors).sum())
        components = _balance(factors)
        if before - left <= _SETTLED * norm:
            break
        before = left
    return tuple(factors), components


def _exact(weight: np.ndarray, rank: int) -> Factors:
    """One term for each entry of all axes but the longest."""
    longest = int(np.argmax(weight.shape))
    moved = np.moveaxis(weight, longest, 0)
    entries = list(np.ndindex(*moved.shape[1:]))
    short = [
        np.array([[float(entry[axis] == row) for entry in entries] for row in range(size)])
        for axis, size in enumerate(moved.shape[1:])
    ]
    factors = [moved.reshape(len(moved), -1), *short]
    factors.insert(longest, factors.pop(0))
    return tuple(np.pad(f, ((0, 0), (0, rank - f.shape[1]))) for f in factors)


def cp(weight: np.ndarray, rank: int) -> Factors:
    """A [N, r], B [C, r], H [kh, r] and V [kw, r] of one group's weight.

    Raises:
        PlanError: no ridge keeps the components from growing.
    """
    if rank >= weight.size // max(weight.shape):
        return _exact(weight, rank)
    norm = float((weight**2).sum())
    for ridge in _RIDGES:
        factors, components = _als(weight, rank, ridge)
        if components <= _DEGENERATE * norm:
            return factors
    raise PlanError(f"cp: rank {rank} has only degenerate fits of this weight; give a lower rank.")


@register("cp")
class Cp(Decomposition):
    """A sum of products of vectors, by alternating least squares."""

    counts_filters = False

    def refusal(self, target: Target) -> str:
        """Fully connected layers, 1x1 kernels and other than two axes are refused."""
        return kernel_refusal(target, self.name) or super().refusal(target)

    def max_rank(self, weight: np.ndarray, group: int = 1) -> Rank:
        """Product of all sizes of a group's weight but the largest, times the groups."""
        part = weight[: len(weight) // group]
        return group * (part.size // max(part.shape))

    def spectrum(self, weight: np.ndarray, group: int = 1) -> list[np.ndarray]:
        """There is none."""
        raise PlanError("cp has no spectrum from which an energy could choose ranks; give ranks.")

    def _factors(self, part: np.ndarray, rank: int) -> Factors:
        return remembered(f"cp {rank}", part, lambda array: cp(array, rank))

    def predicted_error(
        self, weight: np.ndarray, rank: Rank, group: int = 1, spectra: object = None
    ) -> float:
        """Relative error of the sum of the components."""
        each = total(rank) // group
        parts = groups(weight, group)
        return residual(weight, [_product(self._factors(part, each)) for part in parts])

    def records(self, layer: Record, rank: Rank) -> list[Record]:
        """NAME_in, NAME_v, NAME_h and NAME_out."""
        every = total(rank)
        return chain_records(
            layer,
            [
                Link(IN, every, POINT),
                Link(VERTICAL, every, "h", every),
                Link(HORIZONTAL, every, "w", every),
                Link(OUT, 0, POINT),
            ],
        )

    def blobs(self, target: Target, rank: Rank) -> list[list[np.ndarray]]:
        """Weights of the four layers."""
        each = total(rank) // target.group
        found = [self._factors(part, each) for part in groups(target.blob, target.group)]
        a, b, h, v = (np.concatenate(parts) for parts in zip(*_turned(found), strict=True))
        return chain_blobs(
            target, [pointwise(b, 2), h[:, None, :, None], v[:, None, None, :], pointwise(a, 2)]
        )

    def macs(
        self, target: Target, rank: Rank, inputs: Sequence[int], outputs: Sequence[int]
    ) -> int:
        """``r (C / g H W + kh H' W + kw H' W' + N / g H' W')``."""
        every = total(rank)
        height, width = target.kernel
        positions = outputs[0] * outputs[1]
        before = inputs[0] * inputs[1] * target.shape[0] + outputs[0] * inputs[1] * height
        after = positions * every // target.group * target.num_output
        return every * (before + positions * width) + after


def _turned(found: Sequence[Factors]) -> list[Factors]:
    """A [N, r] as it is, the others with a row for each component."""
    return [(a, b.T, h.T, v.T) for a, b, h, v in found]
