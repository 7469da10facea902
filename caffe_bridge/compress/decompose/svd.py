"""Truncated SVD of the filters, with the scale on either factor or on both.

    W = U S V^T
    basis = S_r^(1-a) V_r^T  [r, K],   combination = U_r S_r^a  [N, r]

``balance`` chooses a: ``both`` 1/2 (the reference), ``first`` 0 (all scale in the first layer, as
PCA has it), ``second`` 1. The product is the same; fine-tuning with one learning rate is not.

Reference: Denil et al., "Predicting Parameters in Deep Learning", NIPS 2013; ``--lra_type svd`` of
the tools of Wen et al., ICCV 2017. Complexity: O(N K min(N, K)).

Differences from the reference: works for K < N too; ranks are chosen by the energy unless the rule
``norm`` is asked for, which is the reference's for this method.
"""

from __future__ import annotations

import numpy as np

from caffe_bridge.compress.decompose.base import Decomposition, fix_signs, groups, register

_EXPONENT = {"first": 0.0, "both": 0.5, "second": 1.0}


@register("svd")
class Svd(Decomposition):
    """Truncated singular value decomposition.

    Args:
        balance: which layer holds the singular values: "first", "both" or "second".
    """

    options = {"balance": tuple(_EXPONENT)}

    def __init__(self, balance: str = "both") -> None:
        self.balance = balance

    def spectrum(self, weight: np.ndarray, group: int = 1) -> list[np.ndarray]:
        """Squared singular values of every group."""
        return [np.linalg.svd(part, compute_uv=False) ** 2 for part in groups(weight, group)]

    def factor(self, weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Basis ``S^(1-a) V^T`` and combination ``U S^a``."""
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        left, values, right = left[:, :rank], values[:rank], right[:rank]
        exponent = _EXPONENT[self.balance]
        return fix_signs(values[:, None] ** (1 - exponent) * right, left * values**exponent)
