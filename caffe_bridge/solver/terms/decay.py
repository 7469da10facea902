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
    """``weight_decay`` times each blob's ``decay_mult``, of ``regularization_type`` L2 or L1.

    A blob's own ``regularization_type`` (scnn's ParamSpec) goes before the solver's.
    """

    order = 10

    def setup(self) -> None:
        """Refuse other types, as Caffe does, and a decay for each weight.

        Raises:
            SolverError: an unknown type, or a ``decay_proto``.
        """
        check_regularization(self.solver)
        for blob, param in zip(self.blobs, self.params, strict=True):
            if param.regularization_type not in ("", "L2", "L1"):
                raise self.fail(
                    f"layer {blob.layer} has regularization_type '{param.regularization_type}'; "
                    "use L2 or L1."
                )
            if param.decay_proto:
                raise self.fail(
                    f"layer {blob.layer} names decay_proto '{param.decay_proto}', a decay for each "
                    "weight, which is not supported; remove it or use decay_mult."
                )

    def active(self) -> bool:
        """Always: scripts may set ``weight_decay`` while training."""
        return True

    def add(self, weights: Sequence[Tensor], grads: Sequence[Tensor], iteration: int) -> None:
        """Add the decay."""
        decay = self.solver.weight_decay
        if not decay:
            return
        usual = self.solver.regularization_type
        kinds = [param.regularization_type or usual for param in self.params]
        for kind in sorted(set(kinds)):
            own = [i for i, other in enumerate(kinds) if other == kind]
            decays = [decay * self.blobs[i].decay_mult for i in own]
            mine, theirs = [weights[i] for i in own], [grads[i] for i in own]
            for value, (chosen, targets) in by_value(decays, mine, theirs):
                source = chosen if kind == "L2" else torch._foreach_sign(chosen)
                torch._foreach_add_(targets, source, alpha=value)
