"""A guard against too strong a force: layers whose filters have become parallel.

A force that wins against the data collapses a layer to one filter; ranks look wonderful and the
accuracy is lost. The share of energy in the first principal component,

    s_1^2 / (s_1^2 + .. + s_n^2)        of the matrix of filters (n, K), not centred,

tells it: above 0.95 the rank at an energy of 0.95 is 1. s_1 is found by a few steps of the power
method, which never overestimates it and converges at once where it matters (s_2 / s_1 is small).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from caffe_bridge.net import LearnableBlob
from caffe_bridge.schema import Record
from caffe_bridge.solver.rows import grouped_rows

#: Share of energy in the first component from which a layer counts as collapsed.
COLLAPSED = 0.95
STEPS = 5


@torch.no_grad()
def first_component(rows: Tensor) -> Tensor:
    """Share of energy of the first principal component of each matrix (groups, n, K).

    Returns:
        (groups,); 0 for a matrix of zeros.
    """
    norms = rows.square().sum(2)
    largest = norms.argmax(1)
    vector = rows[torch.arange(rows.shape[0], device=rows.device), largest].unsqueeze(2)
    for _ in range(STEPS):
        vector = rows.transpose(1, 2) @ (rows @ vector)
        vector = vector / vector.norm(dim=1, keepdim=True).clamp_min(1e-30)
    total = norms.sum(1)
    return (rows @ vector).square().sum((1, 2)) / total.clamp_min(1e-30)


class CollapseGuard:
    """Finds forced layers whose filters have become parallel; reports each once.

    Args:
        solver: SolverParameter; ``force_groups`` says which filters belong together.
        blobs: the learnable blobs.
    """

    def __init__(self, solver: Record, blobs: Sequence[LearnableBlob]) -> None:
        self.solver = solver
        self.forced = [b for b in blobs if b.force_mult and b.value.ndim >= 2]
        self._reported: set[int] = set()

    def warnings(self) -> Iterator[str]:
        """A sentence for every layer that has collapsed since the last call."""
        if not any((self.solver.force_decay, self.solver.nuclear_decay,
                    self.solver.lowrank_period)):  # fmt: skip
            return
        for blob in self.forced:
            groups = blob.group if self.solver.force_groups else 1
            rows = grouped_rows(blob.value.detach(), groups)
            if min(rows.shape[1:]) < 2:
                continue
            share = float(first_component(rows).max())
            if share <= COLLAPSED:
                self._reported.discard(id(blob))
            elif id(blob) not in self._reported:
                self._reported.add(id(blob))
                yield (
                    f"Warning: the {rows.shape[1]} filters of layer '{blob.layer}' have become "
                    f"parallel: their first principal component holds {share:.4f} of the energy, "
                    "their rank at 0.95 is 1. Lower force_decay, or end the force with force_iter."
                )
