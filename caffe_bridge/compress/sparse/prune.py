"""Magnitude pruning: the units with the smallest weights become zero.

Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NIPS 2015, for
elements, and the same for rows, columns and blocks. A unit's size is its root mean square, so that
units of different numbers of weights compare:

    sparsity S     the floor(S n) units of least size; ties go to the first
    threshold T    all units of size <= T (for elements |w| <= T)

The result is ordinary weights with zeros in them. Training with ``keep_zeros`` keeps the zeros.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from caffe_bridge.compress.plan import Plan
from caffe_bridge.compress.rewrite import Blobs, rewrite
from caffe_bridge.compress.sparse.units import Unit, unit_sizes, zeroed
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
from caffe_bridge.schema import Record

#: For each layer its own share of zeros, or one share of all layers' units together.
SCOPES = ("layer", "global")


@dataclass(frozen=True)
class PrunedLayer:
    """What became zero in a layer: units, of how many, and the share of zero weights."""

    layer: str
    unit: str
    zeroed: int
    units: int
    sparsity: float


@dataclass(frozen=True)
class Pruned:
    """The net (unchanged), the blobs of all layers that have any, and a row for each layer."""

    net: Record
    blobs: Blobs
    layers: tuple[PrunedLayer, ...]


def _share(sparsity: float) -> float:
    if not 0 <= sparsity < 1:
        raise PlanError(f"sparsity is {sparsity:g}; give a share from 0 to below 1.")
    return sparsity


def _count(sparsity: float, units: int) -> int:
    """floor(S n), without the rounding error of S."""
    return math.floor(sparsity * units + 1e-9)


def _smallest(sizes: np.ndarray, count: int) -> np.ndarray:
    chosen = np.zeros(len(sizes), bool)
    chosen[np.argsort(sizes, kind="stable")[:count]] = True
    return chosen


def choose(
    sizes: dict[str, np.ndarray], sparsity: float | None, threshold: float | None, scope: str
) -> dict[str, np.ndarray]:
    """Which units of each layer become zero.

    Raises:
        PlanError: not one of sparsity and threshold, or a value that makes no sense.
    """
    if (sparsity is None) == (threshold is None):
        raise PlanError("give either a sparsity or a threshold.")
    if scope not in SCOPES:
        raise PlanError(f"scope '{scope}' is not known; use {' or '.join(SCOPES)}.")
    if threshold is not None:
        if not 0 <= threshold < math.inf:
            raise PlanError(f"threshold is {threshold:g}; give a number from 0 on.")
        return {name: found <= threshold for name, found in sizes.items()}
    share = _share(sparsity or 0.0)
    if scope == "layer":
        return {n: _smallest(found, _count(share, len(found))) for n, found in sizes.items()}
    joint = np.concatenate(list(sizes.values()))
    chosen = _smallest(joint, _count(share, len(joint)))
    ends = np.cumsum([len(found) for found in sizes.values()])
    return dict(zip(sizes, np.split(chosen, ends[:-1]), strict=True))


def _targets(
    net: Record, found: dict[str, Target | str], layers: Collection[str], source: str
) -> dict[str, Target]:
    known = {layer.name for layer in net.layer}
    for name in layers:
        target = found.get(name, "it has no weight matrix")
        if name not in known:
            raise PlanError(
                f"{source}: has no layer '{name}'; those with weights are {', '.join(found)}."
            )
        if not isinstance(target, Target):
            raise PlanError(f"{source}: {name} cannot be pruned: {target}.")
    targets = {
        name: target for name, target in found.items()
        if isinstance(target, Target) and (not layers or name in layers)
    }  # fmt: skip
    if not targets:
        raise PlanError(f"{source}: has no layer that can be pruned.")
    return targets


def prune(
    net: NetLike,
    weights: WeightsLike,
    unit: Unit,
    sparsity: float | None = None,
    threshold: float | None = None,
    layers: Collection[str] = (),
    scope: str = "layer",
) -> Pruned:
    """Set the smallest units of convolutions and fully connected layers to zero.

    Args:
        net: path, record or spec.
        weights: trained weights.
        unit: what becomes zero together.
        sparsity: share of the units, in [0, 1).
        threshold: size up to which units go.
        layers: names; all convolutions and fully connected layers when empty.
        scope: "layer" counts a sparsity in each layer, "global" in all of them together.

    Raises:
        PlanError: a setting or a layer that does not fit.
        WeightError: the weights do not belong to the net.
    """
    record, stored = as_record(net), as_weights(weights)
    source = record.where() or stored.source
    targets = _targets(record, find_targets(record, stored), layers, source)
    for target in targets.values():
        require_finite(target, stored.source)
    sizes = {name: unit_sizes(target, unit)[0] for name, target in targets.items()}
    chosen = choose(sizes, sparsity, threshold, scope)
    same, blobs = rewrite(record, stored, Plan([]))
    rows = []
    for name, target in targets.items():
        weight, bias = zeroed(target, unit, chosen[name])
        old = blobs[name]
        turned = target.is_fc and target.record.inner_product_param.transpose
        made = weight.T if turned else weight
        blobs[name] = [np.ascontiguousarray(made.reshape(old[0].shape))]
        if bias is not None:
            blobs[name].append(bias.astype(old[1].dtype).reshape(old[1].shape))
        rows.append(PrunedLayer(name, unit.kind, int(chosen[name].sum()), len(chosen[name]),
                                float((weight == 0).mean())))  # fmt: skip
    return Pruned(same, blobs, tuple(rows))
