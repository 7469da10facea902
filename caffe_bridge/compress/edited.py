"""Plans that somebody changed by hand: the numbers that belong to their ranks."""

from __future__ import annotations

from dataclasses import replace

from caffe_bridge.compress.decompose import decomposition
from caffe_bridge.compress.plan import Plan
from caffe_bridge.compress.planner import check_rank, fitted
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

#: Share of the energy up to which a plan's number counts as that of its rank.
_ROUNDED = 1e-3
#: Settings of a timed plan that belong to the net that was measured.
_MEASURED = (
    "net_ms_after", "measured_speedup", "measured_interval", "unstable", "predicted_error",
)  # fmt: skip


def refreshed(plan: Plan, net: NetLike, weights: WeightsLike) -> Plan:
    """A plan whose numbers belong to its ranks, after somebody changed them by hand.

    Where the energy that an entry claims is not what its method and rank keep of the weight, or the
    theoretical speed-up not theirs (energies of two ranks may be nearly equal), its energy, error
    and theoretical speed-up are computed again and its times go, as do the times of the net.
    Numbers of a fit to data become those of the weights, and its times stay.

    Args:
        plan: a plan for the net.
        net: path, unfiltered record, or spec.
        weights: its trained weights.

    Raises:
        WeightError: the weights do not belong to the net.
    """
    stored = as_weights(weights)
    found = find_targets(as_record(net), stored)
    with_data = "data_aware" in plan.settings
    # A budget of multiply-accumulates counts them at the sizes of the net, not for large maps.
    at_sizes = plan.settings.get("budget") == "macs"
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
        if entry.energy is None:
            made = replace(made, reason=entry.reason, ms_before=entry.ms_before)
            changed = True
        elif abs(entry.energy - (made.energy or 0.0)) <= _ROUNDED and (
            at_sizes or entry.theoretical_speedup in (None, made.theoretical_speedup)
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
    return replace(plan, layers=entries, settings=settings)
