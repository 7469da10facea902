"""Force Regularization as a term; the mathematics is in :mod:`caffe_bridge.solver.force`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.solver.force import (
    POWERS,
    add_force,
    add_plain,
    check_force,
    decay_at,
    is_plain,
)
from caffe_bridge.solver.rows import same_layout
from caffe_bridge.solver.terms.base import TERMS, Term


@TERMS.register("force")
class Force(Term):
    """``force_decay`` times ``force_mult``; ends for good at iteration ``force_iter``."""

    order = 40

    def setup(self) -> None:
        """Refuse what the reference refuses; list the forced blobs once."""
        check_force(self.solver)
        self.forced = [
            index
            for index, blob in enumerate(self.blobs)
            if blob.force_mult and blob.value.ndim >= 2
        ]

    def active(self) -> bool:
        """Whether any blob is forced."""
        return bool(self.forced)

    def add(self, weights: Sequence[Tensor], grads: Sequence[Tensor], iteration: int) -> None:
        """Add the force; it sees the decay that the gradients already hold."""
        decay = decay_at(self.solver, iteration)
        if not decay:
            return
        power = POWERS[self.solver.force_type] if is_plain(self.solver) else None
        inside = bool(self.solver.force_groups)
        for index in self.forced:
            blob, gradient, weight = self.blobs[index], grads[index], weights[index]
            if power is None or not same_layout(gradient, weight):
                add_force(self.solver, blob, gradient, decay)
                continue
            groups = blob.group if inside else 1
            add_plain(gradient, weight, power, groups, decay * blob.force_mult)
