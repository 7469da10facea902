"""Plans that make a net as fast as asked for, by measurement, and lose as little as possible.

    minimise   sum_l e_l,  the energy that layer l loses   (1 - energy kept)
    subject to t_rest + sum_l t_l <= T,  T = t_net / target

``t_l`` comes from the latency table, ``t_rest`` is what the whole net takes beside these layers.
The net of the chosen forms is then measured against the original, interleaved; where it takes
another time than the sum says (weights in the caches, fused or reordered neighbours), the budget is
corrected by the difference and the choice made again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from caffe_bridge.bench import machine_info
from caffe_bridge.compress.decompose import Decomposition, Rank, decomposition
from caffe_bridge.compress.latency.allocate import (
    Choice,
    Option,
    allocate,
    total_error,
    total_ms,
)
from caffe_bridge.compress.latency.cache import LatencyCache
from caffe_bridge.compress.latency.forms import FORMS, Form
from caffe_bridge.compress.latency.table import LayerTimes, bottom_shapes, latency_table
from caffe_bridge.compress.latency.whole import Measured, measure_nets, original, replaced
from caffe_bridge.compress.plan import WHOLE, LayerPlan, Plan
from caffe_bridge.compress.planner import fitted, shown
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
from caffe_bridge.net import Net
from caffe_bridge.schema import Weights

#: A form must save this share of the layer's time, or the layer stays whole.
MARGIN = 0.03
#: The measured speed-up may be this much below the target.
TOLERANCE = 0.07
_CORRECTIONS = 3
_GENEROUS = 1.12
_LARGE = 1024


@dataclass(frozen=True)
class Request:
    """What is asked for: a speed-up or milliseconds, and where.

    Args:
        target_speedup: ratio of the time of the net before and after.
        budget_ms: milliseconds of the net afterwards; exactly one of both is given.
        threads: threads of one operator.
        batch: images of one run.
        device: "cpu" or "cuda".
        block: channel block of the runtime; 0 asks the machine.
        methods: decompositions to try.
    """

    target_speedup: float | None = None
    budget_ms: float | None = None
    threads: int = 1
    batch: int = 1
    device: str = "cpu"
    block: int = 0
    methods: Sequence[str] = FORMS

    def target(self, before_ms: float) -> float:
        """The speed-up that is asked for.

        Raises:
            PlanError: not exactly one of both, or a number that asks for nothing.
        """
        if (self.target_speedup is None) == (self.budget_ms is None):
            raise PlanError("give exactly one of a target speed-up and a budget in milliseconds.")
        if self.budget_ms is not None:
            if not 0 < self.budget_ms < math.inf:
                raise PlanError(f"budget is {self.budget_ms} ms; give a positive number.")
            return before_ms / self.budget_ms
        wanted = self.target_speedup or 0.0
        if not 1.0 < wanted < math.inf:
            raise PlanError(f"target speed-up is {wanted}; give a number above 1.")
        return wanted


def _spectrum(target: Target, method: Decomposition) -> list[np.ndarray]:
    """Eigenvalues of every group; of large fully connected layers without their vectors."""
    if not target.is_fc or min(target.weight.shape) < _LARGE:
        return method.spectrum(target.blob, target.group)
    # Single precision blurs only eigenvalues far below those that any rank leaves out.
    matrix = target.weight.astype(np.float32)
    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    values = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]
    return [np.clip(values.astype(np.float64), 0.0, None)]


def _lost(target: Target, form: Form, spectra: dict[str, Any]) -> float:
    """The share of the energy that a form loses; for tucker the bound from its two spectra."""
    method = form.method
    if isinstance(form.rank, int):
        if method.name not in spectra:
            spectra[method.name] = _spectrum(target, method)
        return (
            method.predicted_error(target.blob, form.rank, target.group, spectra[method.name]) ** 2
        )
    sides: tuple[tuple[str, Rank], ...] = (("weight_svd", form.rank[0]), ("pca", form.rank[1]))
    lost = sum(_lost(target, Form(decomposition(name), rank), spectra) for name, rank in sides)
    return min(lost, 1.0)


def _options(target: Target, times: LayerTimes, spectra: dict[str, Any]) -> list[Option]:
    found = [Option(times.whole_ms, 0.0)]
    for form, ms in times.forms:
        if ms <= times.whole_ms * (1.0 - MARGIN):
            found.append(Option(ms, _lost(target, form, spectra), form))
    return found


def _entry(
    target: Target, option: Option, times: LayerTimes, spectra: Mapping[str, Any]
) -> LayerPlan:
    before = shown(times.whole_ms)
    if option.what is None:
        best = times.fastest()
        if best is None:
            reason = "no aligned rank saves multiply-accumulates"
        elif best[1] > times.whole_ms * (1.0 - MARGIN):
            reason = (
                f"no form is faster by {MARGIN:.0%}: {best[0].label} takes {best[1]:.3g} ms, "
                f"the layer {times.whole_ms:.3g} ms"
            )
        else:
            reason = "the budget holds without it"
        return LayerPlan(target.name, WHOLE, reason=reason, ms_before=before, ms_after=before)
    reason = f"measured {times.whole_ms:.3g} -> {option.ms:.3g} ms"
    method, rank = option.what.method, option.what.rank
    made = fitted(target, method, rank, reason, spectra.get(method.name))
    return replace(made, ms_before=before, ms_after=shown(option.ms))


@dataclass(frozen=True)
class _Try:
    choice: Choice
    measured: Measured


def _better(first: _Try, second: _Try, least: float) -> _Try:
    """The one with less error of those that are fast enough, else the faster one."""
    fast = [t for t in (first, second) if t.measured.speed_up >= least]
    if len(fast) == 2:
        return min(fast, key=lambda t: total_error(t.choice))
    return fast[0] if fast else max((first, second), key=lambda t: t.measured.speed_up)


class _Search:
    def __init__(
        self,
        net: Net,
        weights: Weights,
        request: Request,
        options: Mapping[str, list[Option]],
        say: Callable[[str], None],
    ) -> None:
        self.net, self.weights, self.request = net, weights, request
        self.options, self.say = options, say

    def measure(self, choice: Choice) -> Measured:
        forms = {name: option.what for name, option in choice.items() if option.what is not None}
        after = replaced(self.net, forms, self.weights) if forms else None
        request = self.request
        return measure_nets(self.net, after, request.batch, request.threads, request.device)

    def run(self, before_ms: float, target: float) -> tuple[_Try | None, bool]:
        """The best try, and whether the table promised the target."""
        whole = sum(found[0].ms for found in self.options.values())
        rest = max(before_ms - whole, 0.0)
        best: _Try | None = None
        possible, seen = True, []
        for number in range(_CORRECTIONS + 1):
            choice, fits = allocate(self.options, before_ms / target - rest)
            possible = possible and fits
            if choice in seen or all(option.what is None for option in choice.values()):
                break
            seen.append(choice)
            measured = self.measure(choice)
            found = _Try(choice, measured)
            least = target * (1.0 - TOLERANCE)
            best = found if best is None else _better(best, found, least)
            self.say(
                f"try {number + 1}: predicted {before_ms / (rest + total_ms(choice)):.2f}x, "
                f"measured {measured.speed_up:.2f}x"
            )
            if least <= measured.speed_up <= target * _GENEROUS:
                break
            rest = before_ms / measured.speed_up - total_ms(choice)
        return best, possible


def _targets(spec: NetSpec, found: Mapping[str, Target | str], source: str) -> dict[str, Target]:
    names = {layer.name for layer in spec.layers}
    chosen = {n: t for n, t in found.items() if isinstance(t, Target) and n in names}
    for target in chosen.values():
        require_finite(target, source)
    return chosen


def plan_for_time(
    net: NetLike,
    weights: WeightsLike,
    request: Request,
    *,
    spec: NetSpec | None = None,
    cache: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Plan:
    """A plan that reaches a measured speed-up with the least predicted error.

    Args:
        net: path, unfiltered record, or spec.
        weights: trained weights.
        request: what is asked for.
        spec: the net to measure, with inputs; by default the net in the TEST phase.
        cache: JSON file of known times; None remembers nothing.
        progress: called with lines about the progress.

    Returns:
        The plan; its settings say what was measured. Where nothing is faster all layers are whole.

    Raises:
        PlanError: a wrong request, or no layer that could be decomposed.
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
    whole = original(measured_spec, stored, request.batch)
    table = latency_table(
        targets, bottom_shapes(whole), LatencyCache(cache, request.threads, request.device),
        threads=request.threads, device=request.device,
        block=request.block or machine_info().channel_block, methods=request.methods,
        progress=progress,
    )  # fmt: skip
    spectra: dict[str, dict[str, Any]] = {name: {} for name in targets}
    options = {n: _options(target, table[n], spectra[n]) for n, target in targets.items()}
    before = measure_nets(whole, None, request.batch, request.threads, request.device).before_ms
    target = request.target(before)
    say(f"whole net: {before:.3f} ms, {sum(t.whole_ms for t in table.values()):.3f} in its layers")
    best, possible = _Search(whole, stored, request, options, say).run(before, target)
    least = target * (1.0 - TOLERANCE)
    if target <= 1.0:
        best, verdict = None, f"the net takes {before:.3g} ms, which is within the budget"
    elif best is None or best.measured.speed_up < 1.0 + MARGIN:
        best, verdict = None, "no gain is possible: no choice of forms makes the net faster"
    elif best.measured.speed_up >= least:
        verdict = "reached"
    else:
        why = "" if possible else "; the fastest forms of all layers do not suffice"
        verdict = f"not reached: {best.measured.speed_up:.2f}x is the most that was measured{why}"
    entries = []
    for name, what in found.items():
        if name in targets:
            picked = best.choice[name] if best else options[name][0]
            entry = _entry(targets[name], picked, table[name], spectra[name])
            if best is None and entry.reason == "the budget holds without it":
                entry = replace(entry, reason=verdict)
            entries.append(entry)
        else:
            reason = what if isinstance(what, str) else "not in the TEST phase"
            entries.append(LayerPlan(name, WHOLE, reason=reason))
    settings: dict[str, Any] = {
        "target_speedup": shown(target), "batch": request.batch, "threads": request.threads,
        "device": request.device, "verdict": verdict,
        "net_ms_before": shown(best.measured.before_ms if best else before),
        "net_ms_after": shown(best.measured.after_ms if best else before),
        "measured_speedup": shown(best.measured.speed_up) if best else 1.0,
    }  # fmt: skip
    return Plan(entries, net=record.origin, weights=stored.source, settings=settings)
