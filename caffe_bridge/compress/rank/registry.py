"""All rank rules by name."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from caffe_bridge.errors import PlanError
from caffe_bridge.registry import Registry


class RankRule(Protocol):
    """Chooses a rank from eigenvalues (descending), a ratio and the shape of the matrix."""

    def __call__(
        self, eigenvalues: np.ndarray, ratio: float, shape: tuple[int, int] | None = None
    ) -> int:
        """A rank, at least 1."""


RANK_RULES: Registry[RankRule] = Registry(
    "rank rule", "caffe_bridge.compress.rank", "caffe_bridge.rank_rules", PlanError
)
