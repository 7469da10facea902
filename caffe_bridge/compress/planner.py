"""Making plans: which layers are decomposed, and to which rank."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np

from caffe_bridge.compress.decompose import Decomposition, decomposition
from caffe_bridge.compress.plan import WHOLE, LayerPlan, Plan
from caffe_bridge.compress.rank import check_ratio, rank_for, theoretical_speedup
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


def unknown_layer(net: Record, name: str, where: str) -> PlanError:
    """The error for a layer that a plan or list names and the net lacks."""
    near = difflib.get_close_matches(name, [layer.name for layer in net.layer], n=3)
    hint = f" Did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    return PlanError(f"{where}: {net.origin or 'the net'} has no layer '{name}'.{hint}")


def shown(value: float) -> float:
    """Six significant digits, so that plans stay readable."""
    return float(f"{value:.6g}")


def _whole(name: str, reason: str) -> LayerPlan:
    return LayerPlan(name, WHOLE, reason=reason)


def check_rank(target: Target, method: Decomposition, rank: int, where: str) -> None:
    """Refuse a rank that the layer cannot have.

    Raises:
        PlanError: below 1, not divisible by the group, or above the largest.
    """
    if rank < 1 or rank % target.group:
        raise PlanError(
            f"{where}: {target.label}: rank {rank} is not a positive multiple of group "
            f"{target.group}; use {max(rank // target.group, 1) * target.group}."
        )
    most = method.max_rank(target.weight, target.group)
    if rank > most:
        raise PlanError(
            f"{where}: {target.label}: rank {rank} is above {most}, which reproduces the layer "
            f"exactly ({target.num_output} filters of {target.inputs} weights, group "
            f"{target.group}); use {most} or less."
        )


def fitted(
    target: Target,
    method: Decomposition,
    rank: int,
    reason: str,
    spectra: Sequence[np.ndarray] | None = None,
) -> LayerPlan:
    """The entry of a layer for a rank, with what it keeps and costs."""
    error = method.predicted_error(target.weight, rank, target.group, spectra)
    speedup = theoretical_speedup(target.num_output, target.inputs, rank, target.group)
    return LayerPlan(
        layer=target.name,
        method=method.name,
        rank=rank,
        energy=shown(1.0 - error**2),
        error=shown(error),
        theoretical_speedup=shown(speedup),
        reason=reason,
    )


def _integers(given: Mapping[str, Any], where: str) -> dict[str, int]:
    for name, rank in given.items():
        if isinstance(rank, bool) or not isinstance(rank, Integral) or rank < 1:
            raise PlanError(f"{where}: {name}: rank is {rank!r}; give a positive integer.")
    return {name: int(rank) for name, rank in given.items()}


def _floored(target: Target, rank: int) -> tuple[int, str]:
    floored = max(rank // target.group, 1) * target.group
    if floored == rank:
        return rank, "given rank"
    return floored, f"given rank {rank}, made a multiple of group {target.group}"


def _consume(ranks: Sequence[int], chosen: list[Target]) -> dict[str, int]:
    if len(ranks) != len(chosen):
        names = ", ".join(target.name for target in chosen) or "none"
        raise PlanError(
            f"ranks: {len(ranks)} ranks are given for {len(chosen)} layers ({names}); give one for "
            "each in this order, or except layers."
        )
    return {target.name: rank for target, rank in zip(chosen, ranks, strict=True)}


def _check_sources(energy: float | None, ranks: object, config: object) -> str:
    given = [
        n for n, v in (("energy", energy), ("ranks", ranks), ("config", config)) if v is not None
    ]
    if len(given) != 1:
        raise PlanError(
            "ranks come from exactly one of energy, ranks and config; given: "
            f"{', '.join(given) or 'none'}."
        )
    if energy is not None:
        check_ratio(energy)
    return given[0]


def _select(
    net: Record,
    found: Mapping[str, Target | str],
    method: Decomposition,
    excepted: Iterable[str],
    config: Mapping[str, int] | None,
    include_fc: bool,
    source: str,
) -> tuple[list[Target], dict[str, str]]:
    """Targets to decompose, and the reason for every other layer."""
    names = {layer.name for layer in net.layer}
    excepted = list(excepted)
    for where, listed in (("except_layers", excepted), ("config", config or ())):
        for name in listed:
            if name not in names:
                raise unknown_layer(net, name, where)
    chosen: list[Target] = []
    left: dict[str, str] = {}
    for name, target in found.items():
        if name in excepted:
            left[name] = "excepted"
        elif config is not None and name not in config:
            left[name] = "not in the config"
        elif isinstance(target, str):
            left[name] = target
        elif target.is_fc and not include_fc and config is None:
            left[name] = "fully connected, and include_fc is off"
        else:
            refusal = method.refusal(target)
            if refusal:
                raise PlanError(f"{target.label}: {refusal}.")
            require_finite(target, source)
            chosen.append(target)
    taken = {target.name for target in chosen}
    for name in config or ():
        if name not in taken and name not in excepted:
            layer = next(layer for layer in net.layer if layer.name == name)
            reason = left.get(name, f"type {layer.type} has no weight matrix")
            raise PlanError(
                f"config: {name} ({layer.type}) cannot be decomposed: {reason}; remove it."
            )
    return chosen, left


def make_plan(
    record_or_spec: NetLike,
    weights: WeightsLike,
    *,
    energy: float | None = None,
    ranks: Sequence[int] | None = None,
    config: Mapping[str, int] | None = None,
    except_layers: Iterable[str] = (),
    method: str = "pca",
    rule: str = "energy",
    options: Mapping[str, Any] | None = None,
    include_fc: bool = False,
    force_whole_if_not_smaller: bool = False,
) -> Plan:
    """Choose what to decompose, with ranks from exactly one of ``energy``, ``ranks``, ``config``.

    Args:
        record_or_spec: the net: path, unfiltered record, or spec.
        weights: its trained weights.
        energy: ratio for the rank rule; 0.95 with rule "energy" is the paper's "5 % PCA error".
        ranks: one total rank for each decomposable layer, in prototxt order.
        config: total rank by layer name; only these layers are decomposed, fully connected too.
        except_layers: names of layers that stay, whatever else asks for them.
        method: name of the decomposition.
        rule: how ``energy`` is compared: "energy", or "norm" as the reference does for svd.
        options: options of the method.
        include_fc: decompose fully connected layers by ``energy`` or ``ranks`` too.
        force_whole_if_not_smaller: keep layers whose decomposition does not save
            multiply-accumulates.

    Layers that cannot be decomposed stay, with the reason in the plan. Given ranks are rounded
    down to a multiple of the layer's group.

    Raises:
        PlanError: contradictory arguments, unknown names, ranks that do not fit, or a layer named
            in ``config`` that cannot be decomposed.
        WeightError: the weights do not belong to the net.
    """
    source = _check_sources(energy, ranks, config)
    made = decomposition(method, options, "method")
    net, stored = as_record(record_or_spec), as_weights(weights)
    excepted = list(except_layers)
    found = find_targets(net, stored)
    chosen, left = _select(net, found, made, excepted, config, include_fc, stored.source)
    given: dict[str, int] = {}
    if ranks is not None:
        given = _integers(_consume(ranks, chosen), source)
    elif config is not None:
        given = _integers(config, source)
    by_name = {target.name: target for target in chosen}
    entries: list[LayerPlan] = []
    for name in found:
        if name in left:
            entries.append(_whole(name, left[name]))
            continue
        target, spectra = by_name[name], None
        if energy is not None:
            spectra = made.spectrum(target.weight, target.group)
            rank, reason = rank_for(spectra, energy, rule), f"keeps {energy:g} of the {rule}"
        else:
            rank, reason = _floored(target, given[name])
            check_rank(target, made, rank, source)
        entry = fitted(target, made, rank, reason, spectra)
        if force_whole_if_not_smaller and (entry.theoretical_speedup or 0.0) <= 1.0:
            gain = f"no multiply-accumulates (theoretical speed-up {entry.theoretical_speedup:.3g})"
            entry = _whole(name, f"rank {rank} of {target.num_output} saves {gain}")
        elif options:
            entry = replace(entry, options=dict(options))
        entries.append(entry)
    settings: dict[str, Any] = {"method": method, source: energy if energy is not None else given}
    if energy is not None:
        settings["rule"] = rule
    if options:
        settings["options"] = dict(options)
    settings.update(
        except_layers=excepted,
        include_fc=include_fc,
        force_whole_if_not_smaller=force_whole_if_not_smaller,
    )
    return Plan(entries, net=net.origin, weights=stored.source, settings=settings)
