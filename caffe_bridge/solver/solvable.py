"""What the training loop asks of a net."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from caffe_bridge.net import Built, LearnableBlob


class SolvableNet(Protocol):
    """What the loop needs of a net; both executors provide it."""

    built: Built

    @property
    def learnable(self) -> list[LearnableBlob]:
        """Learnable blobs with multipliers."""

    def forward_backward(self) -> float:
        """One pass; adds to the gradients and returns the loss."""

    def evaluate(self) -> float:
        """A forward pass without gradients; returns the loss."""

    def fetch(self, blob: str) -> Tensor:
        """A blob's values after the last pass."""

    def save(self, path: str | os.PathLike[str], diffs: Sequence[Tensor] = ()) -> object:
        """Write the weights, with a ``diff`` for each learnable blob where they are given."""

    def load(self, weights: str | os.PathLike[str]) -> list[str]:
        """Copy weights by layer name."""
