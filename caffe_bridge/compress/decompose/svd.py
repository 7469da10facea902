"""Truncated SVD of the filters, with the scale on either factor or on both.

    W = U S V^T
    basis = S_r^(1-a) V_r^T  [r, K],   combination = U_r S_r^a  [N, r]

``balance`` chooses a: ``both`` 1/2 (the reference), ``first`` 0 (all scale in the first layer, as
PCA has it), ``second`` 1. The product is the same; fine-tuning with one learning rate is not.

Reference: Denil et al., "Predicting Parameters in Deep Learning", NIPS 2013; ``--lra_type svd`` of
the tools of Wen et al., ICCV 2017. Complexity: that of filter PCA, with which it shares the
eigenproblem: ``S V^T = U^T W``.

Differences from the reference: works for K < N too; ranks are chosen by the energy unless the rule
``norm`` is asked for, which is the reference's for this method.
"""

from __future__ import annotations

import numpy as np

from caffe_bridge.compress.decompose.base import Decomposition, register
from caffe_bridge.compress.eigen import split

#: Which layer holds the singular values -> their power in the combination.
EXPONENT = {"first": 0.0, "both": 0.5, "second": 1.0}


@register("svd")
class Svd(Decomposition):
    """Truncated singular value decomposition.

    Args:
        balance: which layer holds the singular values: "first", "both" or "second".
    """

    options = {"balance": tuple(EXPONENT)}

    def __init__(self, balance: str = "both") -> None:
        self.balance = balance

    def factor(self, weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Basis ``S^(1-a) V^T`` and combination ``U S^a``."""
        combination, basis = split(weight, rank, EXPONENT[self.balance])
        return basis, combination
