"""The eigenproblem behind PCA and SVD, solved once for each weight.

For a matrix M [n, m] the smaller Gram matrix gives, with n <= m,

    M M^T = E diag(lambda) E^T,   lambda_1 >= lambda_2 >= ... >= 0,

and with n > m the vectors E = M V diag(lambda)^-1/2 from M^T M = V diag(lambda) V^T. Everything is
float64: a Gram matrix squares the condition, so that float32 would leave errors of 3e-4 of the norm
where float64 leaves 1e-8.

Ranks are chosen when a plan is made, factors are needed when it is carried out. So the answers for
the last weights are kept, by a digest of their values, up to :data:`CACHE_BYTES`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: Bytes of answers that are kept: the vectors of two layers of 4096 filters, and small ones.
CACHE_BYTES = 512 * 2**20
#: Bytes of weights from which remembering is worth a digest.
_WORTH = 2**12

Arrays = tuple[np.ndarray, ...]
_cache: OrderedDict[bytes, Arrays] = OrderedDict()


@dataclass(frozen=True)
class Eigen:
    """``values`` (k,) descending and ``vectors`` [n, k] orthonormal, k = min(n, m)."""

    values: np.ndarray
    vectors: np.ndarray


def _symmetric(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, descending, and vectors of a symmetric matrix."""
    values, vectors = np.linalg.eigh(gram)
    return np.clip(values[::-1], 0.0, None), np.ascontiguousarray(vectors[:, ::-1])


def _solve(matrix: np.ndarray) -> Arrays:
    rows, columns = matrix.shape
    if rows <= columns:
        return _symmetric(matrix @ matrix.T)
    values, right = _symmetric(matrix.T @ matrix)
    # The columns M v_i are orthogonal; QR normalizes them and survives zero ones.
    return values, np.linalg.qr(matrix @ right)[0]


def remembered(tag: str, array: np.ndarray, compute: Callable[[np.ndarray], Arrays]) -> Arrays:
    """``compute(array)``, or what it answered for the same values before; answers are read-only.

    Args:
        tag: what is computed, with all its settings.
        array: what it is computed from.
        compute: makes a tuple of arrays.
    """
    if array.nbytes < _WORTH:
        return compute(array)
    data = np.ascontiguousarray(array)
    state = hashlib.blake2b(f"{tag} {data.shape} {data.dtype.str}".encode(), digest_size=16)
    state.update(data.data)
    key = state.digest()
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    found = compute(data)
    for part in found:
        part.flags.writeable = False
    _cache[key] = found
    while sum(part.nbytes for parts in _cache.values() for part in parts) > CACHE_BYTES:
        _cache.popitem(last=False)
    return found


def eigen(matrix: np.ndarray) -> Eigen:
    """Squared singular values and left singular vectors of a matrix [n, m], in float64."""
    return Eigen(*remembered("eigen", np.asarray(matrix, np.float64), _solve))


def split(matrix: np.ndarray, rank: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The best product of rank ``rank``: ``M ~= E_r S_r^a  S_r^-a E_r^T M``.

    Args:
        matrix: M [n, m].
        rank: columns of the left factor.
        share: a, the power of the singular values that the left factor [n, rank] takes.

    The largest entry of every column of the left factor is positive.
    """
    left = eigen(matrix).vectors[:, :rank]
    largest = left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])]
    left = left * np.where(largest < 0, -1.0, 1.0)
    right = left.T @ matrix
    if share:
        scale = np.linalg.norm(right, axis=1) ** share
        left = left * scale
        right = right / np.where(scale > 0, scale, 1.0)[:, None]
    return left, right


def forget() -> None:
    """Empty the memory."""
    _cache.clear()
