"""How strong a force is against the data: a scan that proposes values of force_decay.

For every forced blob W of layer l, over batches of the training data with the weights as they are,

    ratio_l(type) = |G_l(type)| / mean_batches |dE/dW + weight_decay decay_mult W|

is the norm of the force at force_decay = 1 over that of the gradient which it is added to. A
strength is proposed as ``share / median_l ratio_l``: with it the force has that share of the
gradient's norm in the middle layer.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from caffe_bridge.errors import SolverError
from caffe_bridge.net import LearnableBlob, Net
from caffe_bridge.solver.force import POWERS, force_gradient

#: Share of the gradient's norm that a force gets.
SHARES = {"weak": 0.003, "medium": 0.01, "strong": 0.03}
TYPES = tuple(POWERS)


@dataclass(frozen=True)
class LayerForce:
    """One forced blob: norms of its weight, its gradient and, by type, of the force at decay 1."""

    layer: str
    filters: int
    weight: float
    gradient: float
    force: dict[str, float]

    def ratio(self, force_type: str) -> float:
        """Force over gradient at force_decay 1."""
        return self.force[force_type] / self.gradient


@dataclass(frozen=True)
class Scan:
    """The rows of a net, and what follows from them.

    ``assumed`` tells that no blob has a force_mult, so that all convolutions were taken.
    """

    rows: tuple[LayerForce, ...]
    batches: int
    assumed: bool
    #: Layers that no gradient reaches (lr_mult 0), which are left out.
    still: tuple[str, ...] = ()

    def proposal(self, force_type: str, share: float) -> float:
        """The force_decay that gives a force its share in the middle layer; two digits."""
        middle = statistics.median(row.ratio(force_type) for row in self.rows)
        return float(f"{share / middle:.2g}") if middle > 0 else 0.0

    def proposals(self) -> dict[str, dict[str, float]]:
        """By type: weak, medium and strong."""
        return {
            kind: {name: self.proposal(kind, share) for name, share in SHARES.items()}
            for kind in TYPES
        }

    def as_dict(self) -> dict[str, Any]:
        """The scan as JSON values."""
        return {
            "batches": self.batches, "assumed": self.assumed, "still": list(self.still),
            "shares": dict(SHARES),
            "layers": [
                {
                    "layer": row.layer, "filters": row.filters, "weight_norm": row.weight,
                    "gradient_norm": row.gradient, "force_norm": row.force,
                    "ratio": {kind: row.ratio(kind) for kind in TYPES},
                }
                for row in self.rows
            ],
            "proposals": self.proposals(),
        }  # fmt: skip


def _chosen(net: Net) -> tuple[list[LearnableBlob], bool]:
    blobs = [blob for blob in net.learnable if blob.value.ndim >= 2]
    forced = [blob for blob in blobs if blob.force_mult]
    if forced:
        return forced, False
    kinds = {layer.name: layer.type_name for layer in net.built.layers}
    return [blob for blob in blobs if kinds.get(blob.layer) == "Convolution"], True


def scan_forces(
    net: Net, batches: int, weight_decay: float = 0.0, force_groups: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Scan:  # fmt: skip
    """Measure forces and gradients of a training net; no weight is changed.

    Args:
        net: the TRAIN net with its weights; its data layers deliver the batches.
        batches: how many.
        weight_decay: the solver's, L2.
        force_groups: whether forces stay inside each group of a convolution.
        progress: called with the number of each finished batch.

    Raises:
        SolverError: no blob could be forced, no batch is asked for, or no gradient is a number
            above zero.
    """
    blobs, assumed = _chosen(net)
    if not blobs or batches < 1:
        raise SolverError(
            f"{net.spec.name or 'the net'}: {len(blobs)} weights to force and {batches} batches; a "
            "scan needs at least one of both."
        )
    sums = torch.zeros(len(blobs), dtype=torch.float64)
    for number in range(batches):
        for blob in net.learnable:
            blob.value.grad = None
        net.forward_backward()
        for index, blob in enumerate(blobs):
            gradient = blob.value.grad
            if gradient is None:
                continue
            with torch.no_grad():
                whole = gradient + weight_decay * blob.decay_mult * blob.value
                sums[index] += float(whole.double().norm())
        if progress is not None:
            progress(number + 1)
    rows = []
    for blob, total in zip(blobs, sums.tolist(), strict=True):
        weight, groups = blob.value.detach(), blob.group if force_groups else 1
        mult = blob.force_mult or 1.0
        forces = {
            kind: mult * float(force_gradient(weight, kind, groups).double().norm())
            for kind in TYPES
        }
        norm = float(weight.double().norm())
        rows.append(LayerForce(blob.layer, weight.shape[0], norm, total / batches, forces))
    moving = tuple(row for row in rows if 0 < row.gradient < math.inf)
    if not moving:
        raise SolverError(
            f"{net.spec.name or 'the net'}: the gradient of {', '.join(row.layer for row in rows)} "
            "is zero or not finite; check their lr_mult, the weights and the data."
        )
    still = tuple(row.layer for row in rows if row not in moving)
    return Scan(moving, batches, assumed, still)
