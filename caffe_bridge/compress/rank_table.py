"""How many filters each layer of a net really needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from caffe_bridge.compress.decompose import Rank, decomposition, total
from caffe_bridge.compress.planner import unknown_layer
from caffe_bridge.compress.rank.align import raise_to
from caffe_bridge.compress.target import (
    NetLike,
    Target,
    WeightsLike,
    as_record,
    as_weights,
    find_targets,
    require_finite,
)
from caffe_bridge.errors import PlanError


@dataclass(frozen=True)
class RankRow:
    """One layer of the table.

    ``rank`` and ``max_rank`` are totals over the groups, ``inputs`` is K, the weights of a filter;
    ``energy`` is the share of the squared norm that the rank keeps and ``error`` the relative error
    of the weight, ``sqrt(1 - energy)``. ``theoretical_speedup`` is a ratio of
    multiply-accumulates, not a time. ``rank_energy`` and ``rank_norm`` are the ranks at the same
    ratio by the reference's two rules, that of its PCA and that of its SVD; None where the ratio
    belongs to another rule. ``full`` is what the rank ratio is a ratio to: num_output where the
    rank counts filters, else the largest rank.
    """

    layer: str
    type: str
    group: int
    num_output: int
    inputs: int
    rank: Rank
    max_rank: Rank
    energy: float
    error: float
    theoretical_speedup: float
    rank_energy: Rank | None = None
    rank_norm: Rank | None = None
    full: int = 0

    @property
    def norm(self) -> float:
        """Share of the norm that the rank keeps, ``sqrt(energy)``."""
        return math.sqrt(self.energy)

    @property
    def rank_ratio(self) -> float:
        """Rank / full rank, as the paper reports it (the output rank of two)."""
        return total(self.rank) / (self.full or self.num_output)


def rank_table(
    net: NetLike,
    weights: WeightsLike,
    energy: float,
    layers: Sequence[str] | None = None,
    *,
    include_fc: bool = False,
    method: str = "pca",
    rule: str = "energy",
    floor: int = 0,
) -> list[RankRow]:
    """Ranks at which layers keep a share of their energy.

    A grouped convolution is seen group by group, as it would be decomposed: its rank is the number
    of groups times the largest rank that any group needs. (Force Regularization acts across the
    groups; the rank of the whole matrix says nothing about a grouped layer's decomposition.)

    Args:
        net: path, unfiltered record, or spec.
        weights: trained weights, or their path.
        energy: ratio in (0, 1]; 0.95 is the paper's "5 % PCA error".
        layers: names, in any order; all decomposable layers when None.
        include_fc: list fully connected layers when ``layers`` is None.
        method: decomposition whose spectrum is used.
        rule: name of the rank rule, with which ``energy`` is its ratio.
        floor: raise ranks to this many in each group.

    Returns:
        One row for each layer in prototxt order.

    Raises:
        PlanError: a named layer is unknown or cannot be decomposed, or the ratio is out of range.
        WeightError: the weights do not belong to the net.
    """
    record, stored = as_record(net), as_weights(weights)
    found = find_targets(record, stored)
    if layers is None:
        chosen = [
            t for t in found.values() if isinstance(t, Target) and (include_fc or not t.is_fc)
        ]
    else:
        for name in layers:
            target = found.get(name)
            if name not in {layer.name for layer in record.layer}:
                raise unknown_layer(record, name, "layers")
            if not isinstance(target, Target):
                reason = target or "it has no weight matrix"
                raise PlanError(f"layers: {name} cannot be decomposed: {reason}; remove it.")
        chosen = [t for name, t in found.items() if name in layers and isinstance(t, Target)]
    made = decomposition(method)
    rows = []
    for target in chosen:
        require_finite(target, stored.source)
        refusal = made.refusal(target)
        if refusal and layers is None:
            continue
        if refusal:
            raise PlanError(f"layers: {target.name} cannot be decomposed: {refusal}; remove it.")
        most = made.max_rank(target.blob, target.group)
        rank = raise_to(made.choose(target.blob, target.group, energy, rule), most, target.group,
                        floor)  # fmt: skip
        both = {
            name: made.choose(target.blob, target.group, energy, name)
            for name in (("energy", "norm") if rule in ("energy", "norm") else ())
        }
        error = made.predicted_error(target.blob, rank, target.group)
        rows.append(
            RankRow(
                layer=target.name,
                type=target.type,
                group=target.group,
                num_output=target.num_output,
                inputs=target.inputs,
                rank=rank,
                max_rank=most,
                energy=1.0 - error**2,
                error=error,
                theoretical_speedup=made.speedup(target, rank),
                rank_energy=both.get("energy"),
                rank_norm=both.get("norm"),
                full=target.num_output if made.counts_filters else total(most),
            )
        )
    return rows
