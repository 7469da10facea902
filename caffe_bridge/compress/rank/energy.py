"""Ranks from the spectrum of a weight matrix.

For a weight matrix W [N, K] with singular values s_1 >= s_2 >= ... the eigenvalues of the uncentred
covariance W W^T are lambda_i = s_i^2, and the best rank-M approximation W_M leaves

    ||W - W_M||_F^2 = sum_{i>M} lambda_i.

* energy kept by rank M: ``sum_{i<=M} lambda_i / sum_i lambda_i``;
* relative error of rank M: ``||W - W_M||_F / ||W||_F = sqrt(1 - energy)``.

"5 % PCA error" of the paper (Wen et al., ICCV 2017) is 5 % of the energy, hence ratio 0.95 of the
energy rule, which is 22 % in the norm. The reference's SVD tool compares the square root of the
energy instead, so that its 0.95 keeps only 90.25 % of the energy: that is the norm rule.

A grouped convolution is decomposed group by group: every group has its own spectrum, and the rank
per group is the largest that any of them needs, so that all groups get equally many filters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from caffe_bridge.compress.rank.registry import RANK_RULES
from caffe_bridge.errors import PlanError


def check_ratio(ratio: float) -> float:
    """The ratio, if it lies in (0, 1].

    Raises:
        PlanError: it does not.
    """
    if not 0.0 < ratio <= 1.0:
        raise PlanError(
            f"energy ratio is {ratio}; give a number above 0 and up to 1 (0.95 allows 5 % error)."
        )
    return float(ratio)


def _cumulative(eigenvalues: np.ndarray) -> np.ndarray:
    # A Gram matrix has no negative eigenvalues; those of rounding size are noise.
    return np.cumsum(np.clip(np.asarray(eigenvalues, np.float64), 0.0, None))


def _first_at_least(kept: np.ndarray, ratio: float) -> int:
    return int(np.argmax(kept >= ratio)) + 1


@RANK_RULES.register("energy")
def rank_by_energy(
    eigenvalues: np.ndarray, ratio: float, shape: tuple[int, int] | None = None
) -> int:
    """Smallest M with ``sum_{i<=M} lambda_i / sum_i lambda_i >= ratio``, at least 1.

    Args:
        eigenvalues: squared singular values, descending.
        ratio: share of the energy to keep, in (0, 1].
        shape: not used.

    Raises:
        PlanError: the ratio is out of range.

    >>> rank_by_energy(np.array([6.0, 3.0, 1.0]), 0.9)
    2
    """
    check_ratio(ratio)
    kept = _cumulative(eigenvalues)
    return _first_at_least(kept / kept[-1], ratio) if kept[-1] > 0 else 1


@RANK_RULES.register("norm")
def rank_by_norm(
    eigenvalues: np.ndarray, ratio: float, shape: tuple[int, int] | None = None
) -> int:
    """Smallest M with ``sqrt(sum_{i<=M} lambda_i / sum_i lambda_i) >= ratio``, at least 1.

    The reference's rule for SVD; ratio r keeps the energy r^2.

    Raises:
        PlanError: the ratio is out of range.

    >>> rank_by_norm(np.array([6.0, 3.0, 1.0]), 0.9)
    2
    >>> rank_by_norm(np.array([6.0, 3.0, 1.0]), 0.77)
    1
    """
    check_ratio(ratio)
    kept = _cumulative(eigenvalues)
    return _first_at_least(np.sqrt(kept / kept[-1]), ratio) if kept[-1] > 0 else 1


@RANK_RULES.register("error")
def rank_by_error(
    eigenvalues: np.ndarray, ratio: float, shape: tuple[int, int] | None = None
) -> int:
    """Smallest M with ``||W - W_M||_F / ||W||_F <= ratio``, at least 1; 0.05 is energy 0.9975.

    Raises:
        PlanError: the ratio is out of range.

    >>> rank_by_error(np.array([6.0, 3.0, 1.0]), 0.5)
    2
    """
    check_ratio(ratio)
    clipped = np.clip(np.asarray(eigenvalues, np.float64), 0.0, None)
    tails = np.append(np.cumsum(clipped[::-1])[::-1], 0.0)
    return max(int(np.argmax(tails <= ratio**2 * tails[0])), 1)


@RANK_RULES.register("stable")
def rank_by_stable_rank(
    eigenvalues: np.ndarray, ratio: float, shape: tuple[int, int] | None = None
) -> int:
    """The stable rank ``||W||_F^2 / s_1^2`` times ``ratio``, rounded up, at most all.

    It counts a direction by how strong it is against the strongest (Wang et al., "Cuttlefish",
    MLSys 2023, chooses ranks of factors by it).

    Raises:
        PlanError: the ratio is not positive.

    >>> rank_by_stable_rank(np.array([6.0, 3.0, 1.0]), 1.0)
    2
    """
    if not 0.0 < ratio < math.inf:
        raise PlanError(f"ratio of the stable rank is {ratio}; give a positive number.")
    clipped = np.clip(np.asarray(eigenvalues, np.float64), 0.0, None)
    if clipped[0] <= 0:
        return 1
    # A hair less, so that rounding does not push a whole number up.
    stable = ratio * float(clipped.sum() / clipped[0]) * (1 - 1e-12)
    return min(max(math.ceil(stable), 1), len(clipped))


def energy_of(eigenvalues: np.ndarray, rank: int) -> float:
    """Share of the energy that the first ``rank`` eigenvalues hold; 1 for a zero matrix.

    >>> energy_of(np.array([6.0, 3.0, 1.0]), 2)
    0.9
    """
    kept = _cumulative(eigenvalues)
    if kept[-1] <= 0:
        return 1.0
    return float(kept[rank - 1] / kept[-1]) if rank <= len(kept) else 1.0


def tail_error(spectra: Sequence[np.ndarray], rank: int) -> float:
    """Relative error ``||W - W_M||_F / ||W||_F`` of a layer whose groups have these spectra.

    Args:
        spectra: eigenvalues of every group, descending.
        rank: total over the groups; each keeps ``rank / len(spectra)``.
    """
    each = rank // len(spectra)
    clipped = [np.clip(np.asarray(s, np.float64), 0.0, None) for s in spectra]
    total = sum(float(s.sum()) for s in clipped)
    # The tail itself, smallest first: 1 - energy would lose it to rounding near full rank.
    tail = sum(float(s[each:][::-1].sum()) for s in clipped)
    return math.sqrt(tail / total) if total > 0 else 0.0


def rank_for(
    spectra: Sequence[np.ndarray],
    ratio: float,
    rule: str = "energy",
    shape: tuple[int, int] | None = None,
) -> int:
    """Total rank by which every group keeps the ratio: groups times the largest group rank.

    Args:
        spectra: eigenvalues of every group, descending.
        ratio: what the rule compares with.
        rule: name of the rule.
        shape: rows and columns of a group's matrix, for rules that need them.

    Raises:
        PlanError: unknown rule, or ratio out of range.
    """
    choose = RANK_RULES.get(rule)
    return len(spectra) * max(choose(eigenvalues, ratio, shape) for eigenvalues in spectra)


def halved(ratio: float, rule: str) -> float:
    """The ratio for each of two cuts whose squared errors add up to at most what ``ratio`` allows.

    >>> halved(0.9, "energy")
    0.95
    """
    if rule == "energy":
        return 1.0 - (1.0 - ratio) / 2.0
    if rule == "norm":
        return math.sqrt(1.0 - (1.0 - ratio**2) / 2.0)
    return ratio / math.sqrt(2.0) if rule == "error" else ratio


def theoretical_speedup(num_output: int, inputs: int, rank: int, group: int = 1) -> float:
    """Ratio of multiply-accumulates before and after: ``N K / (M K + N M / g)``. Not a time.

    Args:
        num_output: N, filters of the layer.
        inputs: K, weights of one filter (C / group * kernel volume).
        rank: M, total over the groups.
        group: g.
    """
    return num_output * inputs / (rank * inputs + num_output * rank / group)
