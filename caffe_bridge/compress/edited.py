"""Plans that somebody changed by hand: the numbers that belong to their ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from caffe_bridge.compress.decompose import Decomposition, decomposition
from caffe_bridge.compress.plan import LayerPlan, Plan
from caffe_bridge.compress.planner import check_rank, fitted, shown
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

#: Share of the energy up to which a plan's number counts as that of its rank.
_ROUNDED = 1e-3
#: Settings of a timed plan that belong to the net that was measured.
_MEASURED = (
    "net_ms_after", "measured_speedup", "measured_interval", "unstable", "predicted_error",
)  # fmt: skip


class _Costs:
    """What a plan for a budget counts: parameters or multiply-accumulates at the net's sizes."""

    def __init__(self, record: Record, found: dict[str, Target | str], unit: str) -> None:
        # Here, for it builds the net and so needs torch, which reading a plan does not.
        from caffe_bridge.compress.budget import places_of

        self._places = places_of(record, found)
        self._unit = unit
        self._saved = 0.0

    def counted(self, entry: LayerPlan, method: Decomposition) -> LayerPlan:
        """The entry with its speed-up at the net's sizes; adds up what its rank saves."""
        if entry.layer not in self._places:
            return entry
        place = self._places[entry.layer]
        dense, cost = place.dense(self._unit), place.cost(method, entry.rank, self._unit)
        self._saved += dense - cost
        if self._unit == "params":
            return entry
        return replace(entry, theoretical_speedup=shown(dense / cost))

    def total(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings that tell the cost of the net."""
        before = settings.get(f"{self._unit}_before")
        if not isinstance(before, (int, float)):
            return {}
        return {f"{self._unit}_after": before - self._saved}


def refreshed(plan: Plan, net: NetLike, weights: WeightsLike) -> Plan:
    """A plan whose numbers belong to its ranks, after somebody changed them by hand.

    Where the energy that an entry claims is not what its method and rank keep of the weight, or the
    theoretical speed-up not theirs (energies of two ranks may be nearly equal), its energy, error
    and theoretical speed-up are computed again and its times go, as do the times of the net.
    Numbers of a fit to data become those of the weights, and its times stay. A plan for a budget
    counts at the net's sizes, as it did when it was made; what the net costs is added up again.

    Args:
        plan: a plan for the net.
        net: path, unfiltered record, or spec.
        weights: its trained weights.

    Raises:
        WeightError: the weights do not belong to the net.
    """
    stored = as_weights(weights)
    record = as_record(net)
    found = find_targets(record, stored)
    unit = plan.settings.get("budget")
    costs = _Costs(record, found, unit) if unit in ("macs", "params") else None
    with_data = "data_aware" in plan.settings
    entries = []
    changed = False
    for entry in plan.layers:
        target = found.get(entry.layer)
        if entry.whole or not isinstance(target, Target):
            changed |= entry.whole and entry.ms_after != entry.ms_before
            entries.append(entry)
            continue
        where = f"{plan.source}: {entry.layer}"
        method = decomposition(entry.method, entry.options, where)
        if method.refusal(target):
            raise PlanError(f"{where} cannot be decomposed: {method.refusal(target)}.")
        require_finite(target, stored.source)
        rank = method.ranks(target, entry.rank)
        check_rank(target, method, rank, plan.source)
        made = fitted(target, method, rank, "changed by hand", None, entry.options)
        if costs is not None:
            made = costs.counted(made, method)
        if entry.energy is None:
            made = replace(made, reason=entry.reason, ms_before=entry.ms_before)
            changed = True
        elif abs(entry.energy - (made.energy or 0.0)) <= _ROUNDED and entry.theoretical_speedup in (
            None,
            made.theoretical_speedup,
        ):
            made = entry
        elif with_data and entry.theoretical_speedup == made.theoretical_speedup:
            made = replace(
                made, reason="fitted to weights", ms_before=entry.ms_before, ms_after=entry.ms_after
            )
        else:
            made = replace(made, ms_before=entry.ms_before)
            changed = True
        entries.append(made)
    settings = {k: v for k, v in plan.settings.items() if k not in ("data_aware", "recalibrated")}
    if changed and "measured_speedup" in settings:
        settings = {name: value for name, value in settings.items() if name not in _MEASURED}
        settings |= {"verdict": "changed by hand after it was measured", "reached": False}
    if changed and costs is not None:
        settings |= costs.total(settings)
    return replace(plan, layers=entries, settings=settings)
