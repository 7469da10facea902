"""Filter PCA: the filters in the basis of their principal components.

    C = W W^T = E diag(lambda) E^T,   lambda_1 >= lambda_2 >= ...
    basis = E_r^T W  [r, K],   combination = E_r  [N, r]

Reference: Wen et al., "Coordinating Filters for Faster Deep Neural Networks", ICCV 2017, section on
cross-filter low-rank approximation. The filters are not centred, so that the subspace is that of
the truncated SVD and the squared error is the sum of the eigenvalues left out. All scale stands in
the basis; the combination is orthonormal.

Complexity: O(N K min(N, K) + min(N, K)^3).

Differences from the reference: a symmetric solver in float64 (its general one may answer with
complex numbers), of the smaller of W W^T and W^T W; a sign convention; groups for every rank rule.
"""

from __future__ import annotations

import numpy as np

from caffe_bridge.compress.decompose.base import Decomposition, fix_signs, groups, register


@register("pca")
class Pca(Decomposition):
    """Uncentred principal components of the filters."""

    def spectrum(self, weight: np.ndarray, group: int = 1) -> list[np.ndarray]:
        """Eigenvalues of the smaller Gram matrix of every group, descending."""
        return [_eigenvalues(part) for part in groups(weight, group)]

    def factor(self, weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Basis ``E^T W`` and orthonormal combination ``E``."""
        filters, inputs = weight.shape
        if filters <= inputs:
            vectors = np.linalg.eigh(weight @ weight.T)[1][:, ::-1][:, :rank]
        else:
            right = np.linalg.eigh(weight.T @ weight)[1][:, ::-1][:, :rank]
            # The columns W v_i are orthogonal; QR normalizes them and survives zero ones.
            vectors = np.linalg.qr(weight @ right)[0]
        return fix_signs(vectors.T @ weight, vectors)


def _eigenvalues(weight: np.ndarray) -> np.ndarray:
    filters, inputs = weight.shape
    gram = weight @ weight.T if filters <= inputs else weight.T @ weight
    return np.clip(np.linalg.eigvalsh(gram)[::-1], 0.0, None)
