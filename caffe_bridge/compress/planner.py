"""Making plans: which layers are decomposed, and to which rank."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_bridge.compress.choice import Choice, parse_choice, plain
from caffe_bridge.compress.decompose import DEPTHWISE, Decomposition, Rank, decomposition
from caffe_bridge.compress.plan import WHOLE, LayerPlan, Plan
from caffe_bridge.compress.rank.align import align, parts, raise_to
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

#: Why a rule chose a rank, for the reader of the plan.
REASONS = {
    "energy": "keeps {ratio:g} of the {rule}",
    "norm": "keeps {ratio:g} of the {rule}",
    "error": "relative error of the weight at most {ratio:g}",
    "stable": "{ratio:g} times the stable rank",
    "evbmf": "stands out of the noise (evbmf, ratio {ratio:g})",
}


def unknown_layer(net: Record, name: str, where: str) -> PlanError:
    """The error for a layer that a plan or list names and the net lacks."""
    near = difflib.get_close_matches(str(name), [layer.name for layer in net.layer], n=3)
    hint = f" Did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    return PlanError(f"{where}: {net.origin or 'the net'} has no layer '{name}'.{hint}")


def shown(value: float) -> float:
    """Six significant digits, so that plans stay readable."""
    return float(f"{value:.6g}")


def _whole(name: str, reason: str) -> LayerPlan:
    return LayerPlan(name, WHOLE, reason=reason)


def check_rank(target: Target, method: Decomposition, rank: Rank, where: str) -> None:
    """Refuse a rank that the layer cannot have.

    Raises:
        PlanError: below 1, not divisible by the group, above the largest, or two that do not go
            together.
    """
    largest = method.max_rank(target.blob, target.group)
    for name, part, most in zip(method.rank_names, parts(rank), parts(largest), strict=True):
        if part < 1 or part % target.group:
            raise PlanError(
                f"{where}: {target.label}: {name} {part} is not a positive multiple of group "
                f"{target.group}; use {max(part // target.group, 1) * target.group}."
            )
        if part > most:
            raise PlanError(
                f"{where}: {target.label}: {name} {part} is above {most}, which reproduces the "
                f"layer exactly ({target.num_output} filters of {target.inputs} weights, group "
                f"{target.group}); use {most} or less."
            )
    misfit = method.misfit(target, rank)
    if misfit:
        raise PlanError(f"{where}: {target.label}: {misfit}.")


def fitted(
    target: Target,
    method: Decomposition,
    rank: Rank,
    reason: str,
    spectra: Sequence[np.ndarray] | None = None,
    options: Mapping[str, Any] | None = None,
) -> LayerPlan:
    """The entry of a layer for a rank, with what it keeps and costs."""
    error = method.predicted_error(target.blob, rank, target.group, spectra)
    return LayerPlan(
        layer=target.name,
        method=method.name,
        rank=rank,
        energy=shown(1.0 - error**2),
        error=shown(error),
        theoretical_speedup=shown(method.speedup(target, rank)),
        reason=reason,
        options=dict(options or {}),
    )


def adjusted(
    target: Target, method: Decomposition, rank: Rank, reason: str, block: int, floor: int
) -> tuple[Rank, str]:
    """A rank raised to ``floor`` in each group and rounded up to ``block``; 0 leaves it."""
    largest = method.max_rank(target.blob, target.group)
    raised = raise_to(rank, largest, target.group, floor)
    if raised != rank:
        rank, reason = raised, f"{reason}; rank {rank} raised to the floor of {floor}"
    aligned = align(rank, largest, target.group, block) if block else rank
    if aligned != rank:
        end = f"; rank {rank} rounded up to the block of {block}"
        if any(part % block for part in parts(aligned)):
            end += f", at most {aligned}"
        rank, reason = aligned, reason + end
    return rank, reason


def unless_larger(entry: LayerPlan, target: Target) -> LayerPlan:
    """The entry, or a whole layer where it saves no multiply-accumulates."""
    if (entry.theoretical_speedup or 0.0) > 1.0:
        return entry
    gain = f"no multiply-accumulates (theoretical speed-up {entry.theoretical_speedup:.3g})"
    return _whole(target.name, f"rank {entry.rank} of {target.num_output} saves {gain}")


def _floored(target: Target, rank: Rank) -> tuple[Rank, str]:
    made = tuple(max(r // target.group, 1) * target.group for r in parts(rank))
    floored: Rank = made[0] if isinstance(rank, int) else made
    if floored == rank:
        return rank, "given rank"
    return floored, f"given rank {rank}, made a multiple of group {target.group}"


def _consume(ranks: Sequence[Any], chosen: list[Target], left: Mapping[str, str]) -> dict[str, Any]:
    if len(ranks) != len(chosen):
        names = ", ".join(target.name for target in chosen) or "none"
        why = "; ".join(f"{name} stays: {reason}" for name, reason in list(left.items())[:5])
        raise PlanError(
            f"ranks: {len(ranks)} ranks are given for {len(chosen)} layers ({names}); give one for "
            f"each in this order, or except layers{f' ({why})' if why else ''}."
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
    return given[0]


def _select(
    net: Record,
    found: Mapping[str, Target | str],
    choices: Callable[[str], Choice],
    excepted: Iterable[str],
    config: Mapping[str, Any] | None,
    include_fc: bool,
    by_energy: bool,
    source: str,
    config_name: str,
) -> tuple[list[Target], dict[str, str]]:
    """Targets to decompose, and the reason for every other layer."""
    names = {layer.name for layer in net.layer}
    excepted = list(excepted)
    for where, listed in (("except_layers", excepted), (config_name, config or ())):
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
            refusal = choices(name).method.refusal(target)
            if refusal and (by_energy or refusal == DEPTHWISE):
                left[name] = refusal
                continue
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
                f"{config_name}: {name} ({layer.type}) cannot be decomposed: {reason}; remove it."
            )
    return chosen, left


@dataclass(frozen=True)
class _Rounding:
    """What happens to chosen ranks: a block to round up to, a least rank, only if it saves."""

    block: int
    floor: int
    smaller: bool


def _entry(
    target: Target, choice: Choice, source: str, rule: str, rounding: _Rounding
) -> LayerPlan:
    method, spectra = choice.method, None
    if choice.rank is None:
        ratio = choice.ratio if choice.ratio is not None else 1.0
        if len(method.rank_names) == 1:
            spectra = method.spectrum(target.blob, target.group)
        rank = method.choose(target.blob, target.group, ratio, rule, spectra)
        reason = REASONS.get(rule, "rule {rule} with {ratio:g}").format(ratio=ratio, rule=rule)
        floor = rounding.floor
    else:
        rank, reason = _floored(target, method.ranks(target, choice.rank))
        floor = 0
    rank, reason = adjusted(target, method, rank, reason, rounding.block, floor)
    check_rank(target, method, rank, source)
    entry = fitted(target, method, rank, reason, spectra, choice.options)
    return unless_larger(entry, target) if rounding.smaller else entry


def make_plan(
    record_or_spec: NetLike,
    weights: WeightsLike,
    *,
    energy: float | None = None,
    ranks: Sequence[int] | None = None,
    config: Mapping[str, Any] | None = None,
    except_layers: Iterable[str] = (),
    method: str = "pca",
    rule: str = "energy",
    options: Mapping[str, Any] | None = None,
    include_fc: bool = False,
    force_whole_if_not_smaller: bool = False,
    block: int = 0,
    floor: int = 0,
    config_name: str = "config",
) -> Plan:
    """Choose what to decompose, with ranks from exactly one of ``energy``, ``ranks``, ``config``.

    Args:
        record_or_spec: the net: path, unfiltered record, or spec.
        weights: its trained weights.
        energy: ratio for the rank rule; 0.95 with rule "energy" is the paper's "5 % PCA error".
        ranks: one total rank for each decomposable layer, in prototxt order.
        config: by layer name a total rank, or an object with method, rank or energy, and options
            (see :mod:`caffe_bridge.compress.choice`); only these layers are decomposed, fully
            connected too.
        except_layers: names of layers that stay, whatever else asks for them.
        method: name of the decomposition.
        rule: how ``energy`` is compared: "energy"; "norm" as the reference does for svd; "error",
            the relative error; "stable", a multiple of the stable rank; "evbmf", weakened by it.
        options: options of the method.
        include_fc: decompose fully connected layers by ``energy`` or ``ranks`` too.
        force_whole_if_not_smaller: keep layers whose decomposition does not save
            multiply-accumulates.
        block: round every rank per group up to a multiple of it (the runtime's channel block);
            0 for no rounding.
        floor: raise ranks that a rule chose to this many in each group.
        config_name: what messages call the config, such as its file.

    Layers that cannot be decomposed stay, with the reason in the plan. Given ranks are rounded
    down to a multiple of the layer's group.

    Raises:
        PlanError: contradictory arguments, unknown names, ranks that do not fit, or a layer named
            in ``config`` that cannot be decomposed.
        WeightError: the weights do not belong to the net.
    """
    source = _check_sources(energy, ranks, config)
    where = config_name if source == "config" else source
    default = Choice(decomposition(method, options, "method"), None, energy, dict(options or {}))
    net, stored = as_record(record_or_spec), as_weights(weights)
    excepted = list(except_layers)
    found = find_targets(net, stored)
    wishes = {
        name: parse_choice(wish, default, f"{where}: {name}")
        for name, wish in (config or {}).items()
        if isinstance(found.get(name), Target)
    }

    def choices(name: str) -> Choice:
        return wishes.get(name, default)

    chosen, left = _select(
        net, found, choices, excepted, config, include_fc, energy is not None, stored.source,
        config_name,
    )  # fmt: skip
    given: dict[str, Any] = dict(config or {})
    if ranks is not None:
        given = _consume(ranks, chosen, left)
        wishes = {n: parse_choice(r, default, f"{where}: {n}") for n, r in given.items()}
    by_name = {target.name: target for target in chosen}
    rounding = _Rounding(block, floor, force_whole_if_not_smaller)
    entries = [
        _whole(name, left[name])
        if name in left
        else _entry(by_name[name], choices(name), where, rule, rounding)
        for name in found
    ]
    settings: dict[str, Any] = {
        "method": method,
        source: energy if energy is not None else plain(given),
    }
    if energy is not None:
        settings["rule"] = rule
    if options:
        settings["options"] = dict(options)
    settings |= {name: n for name, n in (("block", block), ("floor", floor)) if n}
    settings.update(
        except_layers=excepted,
        include_fc=include_fc,
        force_whole_if_not_smaller=force_whole_if_not_smaller,
    )
    return Plan(entries, net=net.origin, weights=stored.source, settings=settings)
