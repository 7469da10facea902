"""The contract of a gradient term, and which terms a solver has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from caffe_bridge.errors import SolverError
from caffe_bridge.net import Built, LearnableBlob
from caffe_bridge.registry import Registry
from caffe_bridge.schema import Record


class Term:
    """One summand of the gradients, named in the solver prototxt.

    Args:
        solver: SolverParameter.
        blobs: the learnable blobs, in the order of the gradients.
        params: the ParamSpec record of each blob, the owner's for shared ones.

    Class variables:
        order: terms with a smaller number are added first.
    """

    order: ClassVar[int] = 0

    def __init__(
        self, solver: Record, blobs: Sequence[LearnableBlob], params: Sequence[Record]
    ) -> None:
        self.solver, self.blobs, self.params = solver, blobs, params
        self.setup()

    def setup(self) -> None:
        """Check the solver's settings; find the blobs that take part.

        Raises:
            SolverError: a setting that is not allowed.
        """

    def active(self) -> bool:
        """Whether the solver asks for the term at all. Abstract: every term says so itself."""
        raise NotImplementedError

    def add(self, weights: Sequence[Tensor], grads: Sequence[Tensor], iteration: int) -> None:
        """Add the term to the gradients, in place."""

    def project(self, weights: Sequence[Tensor], iteration: int) -> None:
        """Change the weights after the update of ``iteration``, in place."""

    def fail(self, reason: str) -> SolverError:
        """The error to raise for a setting of the solver prototxt."""
        return SolverError(f"{self.solver.where()}: {reason}")


TERMS: Registry[type[Term]] = Registry(
    "gradient term", "caffe_bridge.solver.terms", "caffe_bridge.terms", SolverError
)


def gradient_terms(solver: Record, built: Built) -> list[Term]:
    """The terms that a solver asks for, in the order in which they are added.

    Raises:
        SolverError: a term's settings are wrong.
    """
    owners = [slot for number, slot in enumerate(built.slots) if slot.owner == number]
    params = []
    for slot in owners:
        given = built.layers[slot.layer].spec.record.param
        params.append(given[slot.index] if slot.index < len(given) else Record("ParamSpec"))
    made = [TERMS.get(name)(solver, built.learnable, params) for name in TERMS.names()]
    return sorted((term for term in made if term.active()), key=lambda term: term.order)


@torch.no_grad()
def truncated(rows: Tensor, energy: float) -> Tensor:
    """The matrices of least rank that keep a share of the squared norm.

    Args:
        rows: (groups, n, K).
        energy: share in (0, 1]; the rank r is the least with s_1^2 + .. + s_r^2 >= energy |W|^2.
    """
    u, s, vh = torch.linalg.svd(rows.double(), full_matrices=False)
    kept = s.square().cumsum(1)
    total = kept[:, -1:]
    wanted = torch.cat([torch.zeros_like(total), kept[:, :-1]], 1) < energy * total
    return (u * (s * wanted).unsqueeze(1) @ vh).to(rows.dtype)
