"""How sparse the layers of a net are: elements, rows, columns, filters, channels.

A row is zero when all weights of a filter are, a column when one weight of all filters of a group
is (as the reference's sparsity_analyzer counts them), a filter when its row and its bias are, an
input channel when all weights that read it are. With shares r of zero rows and c of zero columns

    theoretical speed-up = 1 / ((1 - r) (1 - c))

is the ratio of multiply-accumulates, reachable where the zeros can be taken out of the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from caffe_bridge.compress.sparse.units import Unit, labels
from caffe_bridge.compress.target import (
    NetLike,
    Target,
    WeightsLike,
    as_record,
    as_weights,
    find_targets,
)
from caffe_bridge.errors import PlanError


@dataclass(frozen=True)
class SparsityRow:
    """Shares of zeros in a layer, each between 0 and 1."""

    layer: str
    type: str
    weights: int
    element: float
    row: float
    column: float
    filter: float
    channel: float

    @property
    def theoretical_speedup(self) -> float:
        """Ratio of multiply-accumulates without zero rows and columns; infinite for all zero."""
        left = (1 - self.row) * (1 - self.column)
        return 1 / left if left > 0 else math.inf


def _zero_share(target: Target, kind: str, near: np.ndarray) -> float:
    numbers = labels(target, Unit(kind)).ravel()
    return float((np.bincount(numbers, (~near).ravel()) == 0).mean())


def layer_sparsity(target: Target, threshold: float = 0.0) -> SparsityRow:
    """The row of one layer; weights of magnitude up to ``threshold`` count as zero."""
    near = np.abs(target.weight) <= threshold
    dead = near.all(1)
    if target.bias is not None:
        dead = dead & (np.abs(target.bias) <= threshold)
    return SparsityRow(
        layer=target.name,
        type=target.type,
        weights=target.weight.size,
        element=float(near.mean()),
        row=_zero_share(target, "row", near),
        column=_zero_share(target, "column", near),
        filter=float(dead.mean()),
        channel=_zero_share(target, "channel", near),
    )


def sparsity_table(
    net: NetLike, weights: WeightsLike, threshold: float = 0.0, layers: Collection[str] = ()
) -> list[SparsityRow]:
    """A row for each convolution and fully connected layer, in prototxt order.

    Args:
        net: path, record or spec.
        weights: its weights.
        threshold: magnitude up to which a weight counts as zero (the reference's analyzer: 1e-4).
        layers: only these, when given.

    Raises:
        PlanError: a named layer has no weight matrix, or there is no layer to list.
        WeightError: the weights do not belong to the net.
    """
    record, stored = as_record(net), as_weights(weights)
    found = find_targets(record, stored)
    for name in layers:
        reason = found.get(name, "it has no weight matrix")
        if not isinstance(reason, Target):
            raise PlanError(f"{stored.source}: layer '{name}' has no statistics: {reason}.")
    rows = [
        layer_sparsity(target, threshold) for name, target in found.items()
        if isinstance(target, Target) and (not layers or name in layers)
    ]  # fmt: skip
    if not rows:
        raise PlanError(
            f"{stored.source}: has weights for no convolution or fully connected layer of this "
            "net; use the weights that belong to it."
        )
    return rows
