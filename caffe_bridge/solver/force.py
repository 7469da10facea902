r"""Force Regularization: filters attract (or repel) each other on the unit sphere.

Wen et al., "Coordinating Filters for Faster Deep Neural Networks", ICCV 2017, eq. (1)-(3). With
rows W_i of a weight (num_output, K), r_i = |W_i|, w_i = W_i / r_i and D_ij = |w_i - w_j|:

    M_i = sum_j w_j                                     Degradation (the paper's L2-norm force)
    M_i = sum_j w_j / D_ij^p, D_ij > tau                p = 1 Constant (the paper's L1-norm force),
                                                        p = 2 Linear, p = 3 Gravity
    G_i = -r_i (M_i - (w_i . M_i) w_i),                 0 where r_i <= tau
    gradient += strength G

tau = 1e-4. The terms in w_i of the pair forces are radial and vanish under the projection, so
Degradation costs O(n K) and the others one matrix product, instead of the reference's O(n^2 K)
loops. All is computed in float64: in float32 the rounding of 2 - 2 w_i.w_j drowns distances near
tau, and equal filters feel rounding noise, which an adaptive strength blows up. Rows with
r_i <= tau neither exert nor feel a force, as in the reference's CPU code.

``force_groups: true`` (ours, off by default) keeps forces inside each group of a grouped
convolution, which the authors obtained by splitting AlexNet's layers by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_bridge.errors import SolverError
from caffe_bridge.net import LearnableBlob
from caffe_bridge.schema import Record

#: Norms and distances at or below this count as zero (ZERO_THRESHOLD of the reference).
TAU = 1e-4
#: Force norm below which an adaptive force is switched off.
WEAK = 1e-8
#: Force type -> power of the distance that divides w_j - w_i.
POWERS = {"Degradation": 0, "Constant": 1, "Linear": 2, "Gravity": 3}
DECAY_TYPES = ("fixed", "adaptive")
DIRECTIONS = ("all", "same")


def force_gradient(weight: Tensor, force_type: str = "Degradation", groups: int = 1) -> Tensor:
    """The gradient G that attracts the rows of a weight.

    Args:
        weight: (n, ...), one filter a row.
        force_type: Degradation, Constant, Linear or Gravity.
        groups: number of row blocks that do not interact.

    Returns:
        A tensor like ``weight``; subtracting it from the weight moves filters together.

    Raises:
        SolverError: unknown force type.
    """
    if force_type not in POWERS:
        raise SolverError(f"force_type '{force_type}' is not known; use {', '.join(POWERS)}.")
    power = POWERS[force_type]
    rows = weight.detach().reshape(groups, weight.shape[0] // groups, -1).double()
    norms = rows.norm(dim=2, keepdim=True)
    alive = norms > TAU
    unit = torch.where(alive, rows / norms.clamp_min(TAU), torch.zeros_like(rows))
    if power == 0:
        pull = unit.sum(1, keepdim=True)
    else:
        square = (2 - 2 * unit @ unit.transpose(1, 2)).clamp_min(0)
        near = square.sqrt() <= TAU
        pairs = alive & alive.transpose(1, 2) & ~near
        kernel = torch.where(pairs, square.clamp_min(TAU**2) ** (-power / 2), 0.0)
        pull = kernel @ unit
    radial = (unit * pull).sum(2, keepdim=True) * unit
    gradient = torch.where(alive, -norms * (pull - radial), torch.zeros_like(rows))
    return gradient.reshape(weight.shape).to(weight.dtype)


def check_force(solver: Record) -> None:
    """Refuse force settings that the reference would refuse.

    Raises:
        SolverError: unknown force_type, force_decay_type or force_direction.
    """
    if not solver.force_decay:
        return
    for name, allowed in (
        ("force_type", tuple(POWERS)), ("force_decay_type", DECAY_TYPES),
        ("force_direction", DIRECTIONS),
    ):  # fmt: skip
        if getattr(solver, name) not in allowed:
            raise SolverError(
                f"{solver.where()}: {name} '{getattr(solver, name)}' is not known; use one of "
                f"{', '.join(allowed)}."
            )


def add_force(solver: Record, blob: LearnableBlob, gradient: Tensor, force_decay: float) -> None:
    """Add one blob's force to its gradient, in place.

    The gradient already holds the weight decay: direction ``same`` and strength ``adaptive`` see
    it. Nothing happens to blobs with fewer than two axes or without force_mult.

    Args:
        solver: SolverParameter with force_type, force_decay_type, force_direction, force_groups.
        blob: the learnable blob.
        gradient: its gradient, changed.
        force_decay: the decay in force at this iteration.
    """
    local = force_decay * blob.force_mult
    if local == 0 or blob.value.ndim < 2:
        return
    groups = blob.group if solver.force_groups else 1
    force = force_gradient(blob.value, solver.force_type, groups)
    if solver.force_direction == "same":
        force = torch.where(gradient * force < 0, torch.zeros_like(force), force)
    if solver.force_decay_type == "adaptive":
        norm = force.norm()
        strength = torch.where(norm < WEAK, torch.zeros_like(norm), local * gradient.norm() / norm)
        gradient.add_(force * strength)
    else:
        gradient.add_(force, alpha=local)
