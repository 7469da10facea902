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
from caffe_bridge.solver.force_small import SmallForces, is_small
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
        self.small: dict[int, SmallForces] = {}

    def active(self) -> bool:
        """Whether any blob is forced."""
        return bool(self.forced)

    def add(self, weights: Sequence[Tensor], grads: Sequence[Tensor], iteration: int) -> None:
        """Add the force; it sees the decay that the gradients already hold."""
        decay = decay_at(self.solver, iteration)
        if not decay:
            return
        power = POWERS[self.solver.force_type] if is_plain(self.solver) else None
        strengths = {i: decay * self.blobs[i].force_mult for i in self.forced}
        small = None if power is None else self._small(weights, power)
        done = small.add(grads, strengths) if small else ()
        for index in self.forced:
            if index in done:
                continue
            blob, gradient, weight = self.blobs[index], grads[index], weights[index]
            if power is None or not same_layout(gradient, weight):
                add_force(self.solver, blob, gradient, decay)
            else:
                add_plain(gradient, weight, power, self._groups(index), strengths[index])

    def _groups(self, index: int) -> int:
        return self.blobs[index].group if self.solver.force_groups else 1

    def _small(self, weights: Sequence[Tensor], power: int) -> SmallForces | None:
        """Those that can be computed together; made again when weights move in memory."""
        found = self.small.get(power)
        if found is None or not found.fits(weights):
            groups = {i: self._groups(i) for i in self.forced}
            few = {i: weights[i] for i, n in groups.items() if is_small(weights[i], n, power)}
            if not few:
                return None
            found = self.small[power] = SmallForces(few, groups, power)
        return found
