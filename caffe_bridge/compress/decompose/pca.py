"""Filter PCA: the filters in the basis of their principal components.

    C = W W^T = E diag(lambda) E^T,   lambda_1 >= lambda_2 >= ...
    basis = E_r^T W  [r, K],   combination = E_r  [N, r]

Reference: Wen et al., "Coordinating Filters for Faster Deep Neural Networks", ICCV 2017, section on
cross-filter low-rank approximation. The filters are not centred, so that the subspace is that of
the truncated SVD and the squared error is the sum of the eigenvalues left out. All scale stands in
the basis; the combination is orthonormal.

Complexity: O(N K min(N, K) + min(N, K)^3), see :mod:`caffe_bridge.compress.eigen`.

Differences from the reference: a symmetric solver in float64 (its general one may answer with
complex numbers), of the smaller of W W^T and W^T W; a sign convention; groups for every rank rule.
"""

from __future__ import annotations

import numpy as np

from caffe_bridge.compress.decompose.base import Decomposition, register
from caffe_bridge.compress.eigen import split


@register("pca")
class Pca(Decomposition):
    """Uncentred principal components of the filters."""

    def factor(self, weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Basis ``E^T W`` and orthonormal combination ``E``."""
        combination, basis = split(weight, rank, 0.0)
        return basis, combination
