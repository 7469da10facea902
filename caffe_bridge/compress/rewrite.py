"""From a plan to a new net and its weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_bridge.compress.decompose import Decomposition, Rank, decomposition
from caffe_bridge.compress.plan import Plan, check_unique, load_plan
from caffe_bridge.compress.planner import check_rank, unknown_layer
from caffe_bridge.compress.target import (
    Target,
    WeightsLike,
    as_record,
    as_weights,
    find_targets,
    label,
    require_finite,
    stored_array,
)
from caffe_bridge.errors import BridgeError, PlanError, SchemaError, WeightError
from caffe_bridge.graph import load_net
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, StoredBlob, Weights, save_weights, write_text

Blobs = dict[str, list[np.ndarray]]


def _owners(net: Record, weights: Weights) -> dict[str, StoredBlob]:
    """The stored blob of every shared parameter, by the parameter's name."""
    owners: dict[str, StoredBlob] = {}
    for layer in net.layer:
        for spec, blob in zip(layer.param, weights.blobs.get(layer.name, ()), strict=False):
            if spec.name and blob is not None:
                owners.setdefault(spec.name, blob)
    return owners


def _kept(layer: Record, weights: Weights, owners: dict[str, StoredBlob]) -> list[np.ndarray]:
    """The arrays of a layer that stays, those stored at another layer included."""
    names = [spec.name for spec in layer.param]
    stored = weights.blobs.get(layer.name, [])
    if not stored and all(name in owners for name in names):
        stored = [None] * len(names)
    arrays = []
    where = f"{label(layer)} in {weights.source}"
    for index, blob in enumerate(stored):
        if blob is None:
            blob = owners.get(names[index] if index < len(names) else "")
        if blob is None:
            raise WeightError(
                f"{where}: blob {index} is stored at no layer; use the prototxt that belongs to "
                "these weights."
            )
        arrays.append(stored_array(blob, layer.type, index, where))
    return arrays


@dataclass(frozen=True)
class _Step:
    target: Target
    method: Decomposition
    rank: Rank

    def records(self, layer: Record) -> list[Record]:
        return self.method.records(layer, self.rank)

    def blobs(self) -> list[list[np.ndarray]]:
        return self.method.blobs(self.target, self.rank)


def _steps(net: Record, weights: Weights, plan: Plan) -> dict[str, _Step]:
    """Every entry that replaces a layer, checked against the net."""
    check_unique(plan.layers, plan.source)
    found = find_targets(net, weights)
    known = {layer.name for layer in net.layer}
    steps: dict[str, _Step] = {}
    for entry in plan.decomposed():
        if entry.layer not in known:
            raise unknown_layer(net, entry.layer, plan.source)
        where = f"{plan.source}: {entry.layer}"
        target = found.get(entry.layer, "it has no weight matrix")
        if not isinstance(target, Target):
            raise PlanError(f"{where} cannot be decomposed: {target}; make it whole.")
        method = decomposition(entry.method, entry.options, where)
        refusal = method.refusal(target)
        if refusal:
            raise PlanError(f"{where} cannot be decomposed: {refusal}.")
        require_finite(target, weights.source)
        rank = method.ranks(target, entry.rank)
        check_rank(target, method, rank, plan.source)
        steps[entry.layer] = _Step(target, method, rank)
    return steps


def _refuse_collisions(net: Record, steps: dict[str, _Step], source: str) -> None:
    names = {layer.name for layer in net.layer}
    makers = {top: layer for layer in net.layer for top in layer.top}
    for layer in net.layer:
        if layer.name not in steps:
            continue
        made = steps[layer.name].records(layer)
        for new in made:
            if new.name in names:
                raise PlanError(
                    f"{source}: {layer.name} would become '{new.name}', which the net already has; "
                    "rename that layer or make this one whole."
                )
        for top in (top for new in made[:-1] for top in new.top):
            if top in makers:
                raise PlanError(
                    f"{source}: {layer.name} would make blob '{top}', which {label(makers[top])} "
                    "already makes; rename that blob or make this layer whole."
                )


def rewrite(record: Record, weights: Weights, plan: Plan) -> tuple[Record, Blobs]:
    """Replace the planned layers of a net.

    Args:
        record: unfiltered NetParameter in the current format; it is not changed.
        weights: its trained weights.
        plan: what becomes of which layer; layers that it does not list stay.

    Returns:
        The new NetParameter and the blobs of all its layers that have any, by layer name. Layers
        that are not replaced keep their definition and values.

    Raises:
        PlanError: the plan does not fit the net, or a new name is taken.
        WeightError: the weights do not belong to the net.
    """
    steps = _steps(record, weights, plan)
    _refuse_collisions(record, steps, plan.source)
    owners = _owners(record, weights)
    blobs: Blobs = {}
    result = record.copy()
    result.layer = []
    done: set[str] = set()
    for layer in record.layer:
        first = layer.name not in done
        done.add(layer.name)
        if layer.name not in steps:
            result.append("layer", layer.copy())
            kept = _kept(layer, weights, owners) if first else []
            if kept:
                blobs[layer.name] = kept
            continue
        step = steps[layer.name]
        made = step.records(layer)
        for new in made:
            result.append("layer", new)
        if first:
            blobs.update({new.name: a for new, a in zip(made, step.blobs(), strict=True)})
    return result, blobs


def as_weights_of(blobs: Blobs, source: str = "weights") -> Weights:
    """Blobs by layer name as weights that a net loads."""
    stored: dict[str, list[StoredBlob | None]] = {
        name: [StoredBlob(a.shape, False, a) for a in arrays] for name, arrays in blobs.items()
    }
    return Weights(source, stored)


def write_blobs(net: Record, blobs: Blobs, path: str | os.PathLike[str]) -> Path:
    """Write the weights of a net; a layer that two phases define is stored once."""
    stored = net.copy()
    unique = {layer.name: layer for layer in reversed(net.layer)}
    stored.layer = [layer for layer in net.layer if unique[layer.name] is layer]
    return save_weights(path, stored, {name: list(arrays) for name, arrays in blobs.items()})


@dataclass(frozen=True)
class Written:
    """The files of a decomposed net."""

    net: Path
    weights: Path
    plan: Path


def _check_loads(net: Record, blobs: Blobs) -> None:
    """Load the blobs into the TEST net, where that needs no data.

    Raises:
        WeightError: a blob has another size than its layer.
    """
    try:
        spec = load_net(net, "TEST")
        if all(layer.bottoms or layer.type == "Input" for layer in spec.layers):
            Net(spec, weights=as_weights_of(blobs, "the decomposed net"), seed=0)
    except WeightError:
        raise
    except BridgeError:
        # A net that cannot be run here can be rewritten all the same.
        return


def write_decomposed(
    net: Record, blobs: Blobs, plan: Plan, out: str | os.PathLike[str], hdf5: bool = False
) -> Written:
    """Write a decomposed net and its plan into the folder ``out``.

    Args:
        net: the new NetParameter, with the layers of all phases.
        blobs: the values of all its layers that have any.
        plan: the plan that it was made by.
        out: folder, made if missing.
        hdf5: write ``lowrank.caffemodel.h5`` instead of the binary.

    Raises:
        SchemaError: the folder cannot be made.
        WeightError: a blob has another size than its layer.
    """
    _check_loads(net, blobs)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SchemaError(f"{folder}: cannot make this folder ({error.strerror}).") from error
    name = "lowrank.caffemodel.h5" if hdf5 else "lowrank.caffemodel"
    return Written(
        net=write_text(net, folder / "lowrank.prototxt"),
        weights=write_blobs(net, blobs, folder / name),
        plan=plan.save(folder / "plan.json"),
    )


def decompose_net(
    net_path: str | os.PathLike[str],
    weights_path: WeightsLike,
    plan: Plan | str | os.PathLike[str],
    out: str | os.PathLike[str],
    hdf5: bool = False,
) -> Written:
    """Write ``lowrank.prototxt``, ``lowrank.caffemodel`` and ``plan.json`` into the folder ``out``.

    The prototxt holds the layers of all phases, and the weights those of every layer in it.

    Args:
        net_path: prototxt of any age.
        weights_path: caffemodel or .caffemodel.h5.
        plan: a plan, or the path of one.
        out: folder, made if missing.
        hdf5: write ``lowrank.caffemodel.h5`` instead of the binary.

    Raises:
        BridgeError: see :func:`rewrite`; nothing is written then.
    """
    chosen = plan if isinstance(plan, Plan) else load_plan(plan)
    net, blobs = rewrite(as_record(net_path), as_weights(weights_path), chosen)
    return write_decomposed(net, blobs, chosen, out, hdf5)
