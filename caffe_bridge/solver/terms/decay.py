"""Weight decay (Caffe's SGDSolver::Regularize): L2 adds wd_i W, L1 adds wd_i sign(W)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.errors import SolverError
from caffe_bridge.schema import Record
from caffe_bridge.solver.foreach import by_value
from caffe_bridge.solver.terms.base import TERMS, Term


def check_regularization(solver: Record) -> None:
    """Refuse an unknown kind of weight decay.

    Raises:
        SolverError: regularization_type is neither L2 nor L1.
    """
    if solver.regularization_type not in ("L2", "L1"):
        raise SolverError(
            f"{solver.where()}: regularization_type '{solver.regularization_type}' is not known; "
            "use L2 or L1."
        )


@TERMS.register("weight_decay")
class WeightDecay(Term):
    """``weight_decay`` times each blob's ``decay_mult``, of ``regularization_type`` L2 or L1."""

    order = 10

    def setup(self) -> None:
        """Refuse other types, as Caffe does."""
        check_regularization(self.solver)

    def active(self) -> bool:
        """Always: scripts may set ``weight_decay`` while training."""
        return True

    def add(self, weights: Sequence[Tensor], grads: Sequence[Tensor], iteration: int) -> None:
        """Add the decay."""
        decay = self.solver.weight_decay
        if not decay:
            return
        decays = [decay * blob.decay_mult for blob in self.blobs]
        for value, (chosen, targets) in by_value(decays, weights, grads):
            source = chosen if self.solver.regularization_type == "L2" else (
                torch._foreach_sign(chosen)
            )  # fmt: skip
            torch._foreach_add_(targets, source, alpha=value)
