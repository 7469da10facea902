"""k-means: every filter is replaced by the nearest of r mean filters.

    basis = centroids  [r, K],   combination = one-hot assignment  [N, r]

Reference: ``--lra_type kmeans`` of the tools of Wen et al., ICCV 2017. The clusters are those of
scikit-learn's KMeans (Lloyd's iterations from 10 seeded k-means++ starts).

Complexity: O(N K r) an iteration. There is no spectrum: ranks must be given. As in the reference,
convolutions only.

Differences from the reference: seeded; exact when r reaches the number of different filters.
"""

from __future__ import annotations

import numpy as np

from caffe_bridge.compress.decompose.base import (
    Decomposition,
    Rank,
    groups,
    register,
    residual,
    total,
)
from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError

_STARTS = 10
_SEED = 0


@register("kmeans")
class Kmeans(Decomposition):
    """Mean filters and a one-hot choice among them."""

    def refusal(self, target: Target) -> str:
        """Fully connected layers are refused."""
        if target.is_fc:
            return "kmeans serves convolutions only; use pca or svd for fully connected layers"
        return super().refusal(target)

    def spectrum(self, weight: np.ndarray, group: int = 1) -> list[np.ndarray]:
        """There is none."""
        raise PlanError(
            f"{self.name} has no spectrum from which an energy could choose ranks; give ranks."
        )

    def max_rank(self, weight: np.ndarray, group: int = 1) -> int:
        """Different filters of the group that has most, times the groups."""
        return group * max(len(np.unique(part, axis=0)) for part in groups(weight, group))

    def factor(self, weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Centroids and one-hot assignment."""
        different, chosen = np.unique(weight, axis=0, return_inverse=True)
        if rank < len(different):
            # Imported here: it takes a second that nobody else should wait for.
            from sklearn.cluster import KMeans

            fitted = KMeans(rank, n_init=_STARTS, random_state=_SEED).fit(weight)
            different, chosen = fitted.cluster_centers_, fitted.labels_
        basis = np.zeros((rank, weight.shape[1]))
        basis[: len(different)] = different
        return basis, np.eye(rank)[chosen.reshape(-1)]

    def predicted_error(
        self, weight: np.ndarray, rank: Rank, group: int = 1, spectra: object = None
    ) -> float:
        """Distance of the filters from their centroids, relative to their norm."""
        made = []
        for part in groups(weight, group):
            basis, combination = self.factor(self.unfold(part), total(rank) // group)
            made.append((combination @ basis).reshape(part.shape))
        return residual(weight, made)
