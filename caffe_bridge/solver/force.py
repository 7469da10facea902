r"""Force Regularization: filters attract (or repel) each other on the unit sphere.

Wen et al., "Coordinating Filters for Faster Deep Neural Networks", ICCV 2017, eq. (1)-(3). With
rows W_i of a weight (num_output, K), r_i = |W_i|, w_i = W_i / r_i and D_ij = |w_i - w_j|:

    M_i = sum_j w_j                                     Degradation (the paper's L2-norm force)
    M_i = sum_j w_j / D_ij^p, D_ij > tau                p = 1 Constant (the paper's L1-norm force),
                                                        p = 2 Linear, p = 3 Gravity
    G_i = -r_i (M_i - (w_i . M_i) w_i),                 0 where r_i <= tau
    gradient += strength G

tau = 1e-4. The terms in w_i of the pair forces are radial and vanish under the projection, so
Degradation costs O(n K). For the others, with the kernel K_ij = 1 / D_ij^p, 0 where D_ij <= tau,

    G = A W,    A_ij = [i = j] sum_k K_ik (w_i . w_k) - r_i K_ij / r_j

so that a force costs two matrix products (the cosines, and A W added to the gradient at once)
instead of the reference's O(n^2 K) loops. :func:`force_gradient` is float64: in float32 the
rounding of 2 - 2 w_i.w_j drowns distances near tau, and equal filters feel rounding noise, which
an adaptive strength blows up. A force of fixed strength in all directions is added with float32
products as long as no two filters are close: distances below :data:`NEAR` come from the filters'
difference in float64, and all is float64 once two are nearer than :data:`CLOSE` or many are near.
Rows with r_i <= tau neither exert nor feel a force, as in the reference's CPU code.

``force_groups: true`` (ours, off by default) keeps forces inside each group of a grouped
convolution, which the authors obtained by splitting AlexNet's layers by hand.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.errors import SolverError
from caffe_bridge.net import LearnableBlob
from caffe_bridge.schema import Record
from caffe_bridge.solver.rows import grouped_rows, like_weight, same_layout

#: Norms and distances at or below this count as zero (ZERO_THRESHOLD of the reference).
TAU = 1e-4
#: Squared distance below which a pair's distance is computed exactly.
NEAR = 5e-2
#: Squared distance below which all is computed in float64.
CLOSE = 1e-4
#: Near pairs for each filter above which all is computed in float64.
MANY = 8
#: Squared distance that stands for "not a pair"; no two filters are farther apart.
FAR = 4.0
#: Filters from which products of filters are computed by blocks.
BLOCKED = 128
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
    rows = grouped_rows(weight.detach(), groups).double()
    if POWERS[force_type] == 0:
        factors, norms, pull = _degradation(rows)
        return like_weight(rows * factors - norms * pull, weight)
    rows, matrix = _matrix(rows, POWERS[force_type])
    return like_weight(matrix @ rows, weight)


def _norms(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Norms (groups, n) of the rows and their inverses; both 0 for norms up to tau."""
    norms = torch.linalg.vector_norm(rows, dim=2)
    alive, zero = norms > TAU, torch.zeros_like(norms)
    return norms.where(alive, zero), (1 / norms.clamp_min(TAU)).where(alive, zero)


def _degradation(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """F (groups, n, 1), r (groups, n, 1) and M (groups, 1, K) with G = F W - r M."""
    norms, inverse = _norms(rows)
    pull = inverse.unsqueeze(1) @ rows
    factors = (rows @ pull.transpose(1, 2)).mul_(inverse.unsqueeze(2))
    return factors, norms.unsqueeze(2), pull


def _gram(rows: Tensor) -> Tensor:
    """``rows rows^T``, computed by blocks below the diagonal: 10/16 of the products."""
    n = rows.shape[1]
    if n < BLOCKED:
        return rows @ rows.transpose(1, 2)
    made = rows.new_empty(rows.shape[0], n, n)
    edges = [n * part // 4 for part in range(5)]
    for start, end in pairwise(edges):
        made[:, start:end, :end] = rows[:, start:end] @ rows[:, :end].transpose(1, 2)
        made[:, :start, start:end] = made[:, start:end, :start].transpose(1, 2)
    return made


def _matrix(rows: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """The rows and the A (groups, n, n) with G = A rows, in the precision that is needed.

    Rows without length need no mask: their r, 1 / r and cosines are 0.
    """
    norms, inverse = _norms(rows)
    cosine = _gram(rows).mul_(inverse.unsqueeze(2)).mul_(inverse.unsqueeze(1))
    square = (cosine * -2).add_(2).clamp_min_(0)
    square.diagonal(dim1=1, dim2=2).fill_(FAR)
    if rows.dtype != torch.float64 and bool(square.amin() < NEAR):
        group, i, j = (square < NEAR).triu(1).nonzero(as_tuple=True)
        if len(i) > MANY * rows.shape[1]:
            return _matrix(rows.double(), power)
        first, second = (functional.normalize(rows[group, k].double(), dim=1) for k in (i, j))
        exact = (first - second).square().sum(1)
        if bool(exact.min() < CLOSE):
            return _matrix(rows.double(), power)
        square[group, i, j] = square[group, j, i] = exact.to(square.dtype)
        cosine[group, i, j] = cosine[group, j, i] = (1 - exact / 2).to(square.dtype)
    kernel = square.rsqrt() if power == 1 else square.pow(-power / 2)
    if rows.dtype == torch.float64:
        kernel.masked_fill_(square <= TAU**2, 0)
    kernel.diagonal(dim1=1, dim2=2).fill_(0)
    radial = (kernel * cosine).sum(2)
    matrix = kernel.mul_(-norms.unsqueeze(2)).mul_(inverse.unsqueeze(1))
    matrix.diagonal(dim1=1, dim2=2).add_(radial)
    return rows, matrix


def decay_at(solver: Record, iteration: int) -> float:
    """``force_decay``, 0 from iteration ``force_iter`` on (-1: never)."""
    ended = solver.force_iter != -1 and iteration >= solver.force_iter
    return 0.0 if ended else float(solver.force_decay)


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
    weight = blob.value.detach()
    if is_plain(solver) and same_layout(gradient, weight):
        add_plain(gradient, weight, POWERS[solver.force_type], groups, local)
        return
    force = force_gradient(weight, solver.force_type, groups)
    if solver.force_direction == "same":
        force = torch.where(gradient * force < 0, torch.zeros_like(force), force)
    if solver.force_decay_type == "adaptive":
        norm = force.norm()
        strength = torch.where(norm < WEAK, torch.zeros_like(norm), local * gradient.norm() / norm)
        gradient.add_(force * strength)
    else:
        gradient.add_(force, alpha=local)


def is_plain(solver: Record) -> bool:
    """Whether the force neither looks at the gradient's direction nor at its size."""
    return bool(solver.force_direction == "all" and solver.force_decay_type == "fixed")


def add_plain(gradient: Tensor, weight: Tensor, power: int, groups: int, strength: float) -> None:
    """``gradient += strength G`` without G itself; both have one layout."""
    target, rows = grouped_rows(gradient, groups), grouped_rows(weight, groups)
    if power == 0:
        factors, norms, pull = _degradation(rows)
        target.addcmul_(rows, factors, value=strength).baddbmm_(norms, pull, alpha=-strength)
        return
    rows, matrix = _matrix(rows, power)
    if rows.dtype == target.dtype:
        target.baddbmm_(matrix, rows, alpha=strength)
    else:
        target.add_((matrix @ rows).to(target.dtype), alpha=strength)
