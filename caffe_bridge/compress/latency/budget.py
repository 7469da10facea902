"""Plans that make a net as fast as asked for, by measurement, and lose as little as possible.

    minimise   sum_l -log(1 - e_l),  e_l the energy that layer l loses
    subject to t_rest + sum_l t_l <= T,  T = t_net / target

or, with a sensitivity scan, the sum of the squared errors that it measured
(:mod:`~caffe_bridge.compress.latency.measured`). ``t_l`` comes from the latency table, ``t_rest``
is what the whole net takes beside these layers.
A form that gains little is measured again before it counts; the net of the chosen forms is then
measured against the original (:mod:`~caffe_bridge.compress.latency.search`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from caffe_bridge.bench import Schedule, channel_block, machine_info
from caffe_bridge.compress.latency.allocate import Choice, Option, allocate
from caffe_bridge.compress.latency.cache import LatencyCache
from caffe_bridge.compress.latency.forms import FORMS
from caffe_bridge.compress.latency.measured import MeasuredLosses
from caffe_bridge.compress.latency.options import (
    MARGIN,
    UNUSED,
    layer_entry,
    layer_options,
    predicted_error,
)
from caffe_bridge.compress.latency.search import Outcome, Search, least_gain
from caffe_bridge.compress.latency.table import (
    Allowance,
    LayerTimer,
    LayerTimes,
    bottom_shapes,
    latency_table,
)
from caffe_bridge.compress.latency.whole import Measured, WholeNet, original
from caffe_bridge.compress.plan import WHOLE, LayerPlan, Plan
from caffe_bridge.compress.planner import shown
from caffe_bridge.compress.sensitivity import Scan
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
from caffe_bridge.graph import NetSpec, load_net

#: Forms that save less than this share of a layer's time are measured again before they count.
_SMALL_GAIN = 0.25
_CONFIRMATIONS = 3
#: The share of the time for measuring that the table may take.
_TABLE_SHARE = 0.65


@dataclass(frozen=True)
class Request:
    """What is asked for: a speed-up or milliseconds, and where.

    Args:
        target_speedup: ratio of the time of the net before and after.
        budget_ms: milliseconds of the net afterwards; exactly one of both is given.
        threads: threads of one operator.
        batch: images of one run.
        device: "cpu" or "cuda".
        block: channel block of the runtime; 0 is that of the device.
        methods: decompositions to try.
        seconds: how long measuring may take; what is under way is finished, and the last
            measurement of the whole net is always made.
        export_for: the target of the exports that are timed.
    """

    target_speedup: float | None = None
    budget_ms: float | None = None
    threads: int = 1
    batch: int = 1
    device: str = "cpu"
    block: int = 0
    methods: Sequence[str] = FORMS
    seconds: float = 240.0
    export_for: str = "portable"

    def target(self, before_ms: float) -> float:
        """The speed-up that is asked for.

        Raises:
            PlanError: not exactly one of both, or a number that asks for nothing.
        """
        if (self.target_speedup is None) == (self.budget_ms is None):
            raise PlanError("give exactly one of a target speed-up and a budget in milliseconds.")
        if not 0 < self.seconds < math.inf:
            raise PlanError(f"measuring may take {self.seconds} s; give a positive number.")
        if self.budget_ms is not None:
            if not 0 < self.budget_ms < math.inf:
                raise PlanError(f"budget is {self.budget_ms} ms; give a positive number.")
            return before_ms / self.budget_ms
        wanted = self.target_speedup or 0.0
        if not 1.0 < wanted < math.inf:
            raise PlanError(f"target speed-up is {wanted}; give a number above 1.")
        return wanted


def _targets(spec: NetSpec, found: Mapping[str, Target | str], source: str) -> dict[str, Target]:
    names = {layer.name for layer in spec.layers}
    chosen = {n: t for n, t in found.items() if isinstance(t, Target) and n in names}
    for target in chosen.values():
        require_finite(target, source)
    return chosen


class _Planning:
    """A net whose layers have a table of times."""

    def __init__(
        self, whole: WholeNet, targets: Mapping[str, Target], measured: MeasuredLosses | None
    ) -> None:
        self.whole, self.targets, self.measured = whole, targets, measured
        self.spectra: dict[str, dict[str, Any]] = {name: {} for name in targets}
        self.times: dict[str, LayerTimes] = {}
        self.timers: dict[str, LayerTimer] = {}

    def measure(self, choice: Choice, schedule: Schedule) -> Measured:
        forms = {name: option.what for name, option in choice.items() if option.what is not None}
        return self.whole.against(forms, schedule)

    def options(self) -> dict[str, list[Option]]:
        return {
            name: layer_options(target, self.times[name], self.spectra[name], self.measured)
            for name, target in self.targets.items()
        }

    def confirm(self, choice: Choice) -> bool:
        """Measure chosen forms of little gain again; whether the table changed for the worse."""
        changed = False
        for name, option in choice.items():
            times = self.times[name]
            if option.what is None or option.ms < (1.0 - _SMALL_GAIN) * times.whole_ms:
                continue
            ms = times.whole_ms * self.timers[name].fresh(option.what)
            times.forms = [(f, ms if f == option.what else old) for f, old in times.forms]
            changed |= ms > option.ms * (1.0 + MARGIN)
        return changed

    def confirmed_options(self, before_ms: float, target: float) -> dict[str, list[Option]]:
        options = self.options()
        for _ in range(_CONFIRMATIONS):
            whole = sum(found[0].ms for found in options.values())
            choice, _ = allocate(options, whole - before_ms * (1.0 - 1.0 / target))
            changed = self.confirm(choice)
            options = self.options()
            if not changed:
                break
        return options


def _verdict(outcome: Outcome, target: float, over: bool) -> str:
    best = outcome.best
    if best is None:
        return (
            f"no gain is possible: no choice of forms makes the net faster by {MARGIN:.0%} on "
            "this machine, so it stays whole"
        )
    gain = best.measured.speed_up
    if gain >= least_gain(target):
        return "reached"
    if outcome.fastest:
        why = "the fastest measured forms of all layers do not suffice"
    elif over:
        why = "the time for measuring was up"
    else:
        why = "the sum of the layers promised more than the whole net gains"
    return f"not reached: measured {gain:.2f}x of {target:.2f}x; {why}"


def plan_for_time(
    net: NetLike,
    weights: WeightsLike,
    request: Request,
    *,
    spec: NetSpec | None = None,
    cache: str | None = None,
    progress: Callable[[str], None] | None = None,
    scans: Sequence[Scan] = (),
) -> Plan:
    """A plan that reaches a measured speed-up with the least predicted error.

    Args:
        net: path, unfiltered record, or spec.
        weights: trained weights.
        request: what is asked for.
        spec: the net to measure, with inputs; by default the net in the TEST phase.
        cache: JSON file of known times; None remembers nothing.
        progress: called with lines about the progress.
        scans: measured errors, minimised instead of those of the weights; layers that they lack
            stay whole.

    Returns:
        The plan; its settings say what was measured. Where nothing is faster all layers are whole.

    Raises:
        PlanError: a wrong request, no layer that could be decomposed, or another net's scan.
        BridgeError: the net cannot be built, exported or run.
    """
    say = progress or (lambda _text: None)
    record, stored = as_record(net), as_weights(weights)
    request.target(1.0)
    measured_spec = spec or load_net(record, "TEST")
    found = find_targets(record, stored)
    targets = _targets(measured_spec, found, stored.source)
    if not targets:
        raise PlanError(f"{record.origin or 'the net'}: has no layer that could be decomposed.")
    measured = MeasuredLosses(scans, targets) if scans else None
    if measured is not None:
        targets = {name: target for name, target in targets.items() if name in measured}
    allowance = Allowance(request.seconds)
    known = LatencyCache(cache, request.threads, request.device, request.export_for)
    net_before = original(measured_spec, stored, request.batch)
    whole = WholeNet(
        net_before, stored, request.batch, request.threads, request.device, request.export_for
    )
    before = whole.alone()
    target = request.target(before)
    planning = _Planning(whole, targets, measured)
    say(f"whole net: {before:.3f} ms; measuring takes {request.seconds:g} s at most")
    planning.times, planning.timers = latency_table(
        targets, bottom_shapes(net_before), known, threads=request.threads, device=request.device,
        block=request.block or channel_block(request.device), methods=request.methods,
        allowance=Allowance(_TABLE_SHARE * request.seconds), progress=progress,
        export_for=request.export_for,
    )  # fmt: skip
    within = target <= 1.0
    outcome = Outcome(None)
    if not within:
        options = planning.confirmed_options(before, target)
        known.save()
        search = Search(options, planning.measure, say, lambda: allowance.spent)
        outcome = search.run(before, target)
    if within:
        verdict = f"the net takes {before:.3g} ms, which is within the budget"
    else:
        verdict = _verdict(outcome, target, allowance.spent)
    reached = within or verdict == "reached"
    entries = _entries(found, planning, outcome, verdict)
    settings = _settings(request, target, before, outcome, verdict, reached, planning)
    return Plan(entries, net=record.origin, weights=stored.source, settings=settings)


def _entries(
    found: Mapping[str, Target | str], planning: _Planning, outcome: Outcome, verdict: str
) -> list[LayerPlan]:
    entries = []
    for name, what in found.items():
        if name not in planning.targets:
            reason = what if isinstance(what, str) else "not in the TEST phase"
            if planning.measured is not None and isinstance(what, Target):
                reason = "not in the sensitivity scan"
            entries.append(LayerPlan(name, WHOLE, reason=reason))
            continue
        times = planning.times[name]
        picked = outcome.best.choice[name] if outcome.best else Option(times.whole_ms, 0.0)
        entry = layer_entry(
            planning.targets[name], picked, times, planning.spectra[name], planning.measured
        )
        if outcome.best is None and entry.reason == UNUSED:
            entry = replace(entry, reason=verdict)
        entries.append(entry)
    return entries


def _settings(
    request: Request, target: float, before: float, outcome: Outcome, verdict: str,
    reached: bool, planning: _Planning,
) -> dict[str, Any]:  # fmt: skip
    best, scanned = outcome.best, planning.measured
    measured = best.measured if best else Measured(before, before, 1.0, 1.0, 1.0)
    error = predicted_error(best.choice.values(), scanned is not None) if best else 0.0
    machine = machine_info()
    return {
        "target_speedup": shown(target), "batch": request.batch, "threads": request.threads,
        "device": request.device, "onnx_target": request.export_for,
        "verdict": verdict, "reached": reached,
        "net_ms_before": shown(measured.before_ms), "net_ms_after": shown(measured.after_ms),
        "measured_speedup": shown(measured.speed_up),
        "measured_interval": [shown(measured.low), shown(measured.high)],
        "unstable": measured.unstable,
        "predicted_error": shown(error),
        "errors": "weights" if scanned is None else f"measured at {scanned.blob}",
        "block": request.block or channel_block(request.device),
        "machine": machine.cpu, "onnxruntime": machine.versions["onnxruntime"],
    }  # fmt: skip
