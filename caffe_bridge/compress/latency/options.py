"""What every layer could become: its forms with their measured time and predicted error.

A form that loses the share ``e`` of a layer's energy counts as ``-log(1 - e)``, so that the sum
over layers that is minimised is the logarithm of the product of what they keep (Zhang 2015): the
predicted share of the output's energy. A layer that is all but destroyed is never a bargain. With a
sensitivity scan the squared errors that it measured count instead, which add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from caffe_bridge.compress.decompose import Decomposition, Rank, decomposition
from caffe_bridge.compress.latency.allocate import Option
from caffe_bridge.compress.latency.forms import Form
from caffe_bridge.compress.latency.measured import MeasuredLosses
from caffe_bridge.compress.latency.table import LayerTimes
from caffe_bridge.compress.plan import WHOLE, LayerPlan
from caffe_bridge.compress.planner import fitted, shown
from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError

#: A form must save this share of the layer's time, or the layer stays whole.
MARGIN = 0.03
UNUSED = "the budget holds without it"
_LARGE = 1024
_LEAST_KEPT = 1e-6


def _spectrum(target: Target, method: Decomposition) -> list[np.ndarray]:
    """Eigenvalues of every group; of large fully connected layers without their vectors."""
    if not target.is_fc or min(target.weight.shape) < _LARGE:
        return method.spectrum(target.blob, target.group)
    # Single precision blurs only eigenvalues far below those that any rank leaves out.
    matrix = target.weight.astype(np.float32)
    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    values = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]
    return [np.clip(values.astype(np.float64), 0.0, None)]


def lost(target: Target, form: Form, spectra: dict[str, Any]) -> float:
    """The share of the energy that a form loses; for tucker the bound from its two spectra.

    Raises:
        PlanError: the method has no fit of that rank.
    """
    method = form.method
    if isinstance(form.rank, int):
        if method.name == "cp":
            return method.predicted_error(target.blob, form.rank, target.group) ** 2
        if method.name not in spectra:
            spectra[method.name] = _spectrum(target, method)
        return (
            method.predicted_error(target.blob, form.rank, target.group, spectra[method.name]) ** 2
        )
    sides: tuple[tuple[str, Rank], ...] = (("weight_svd", form.rank[0]), ("pca", form.rank[1]))
    parts = sum(lost(target, Form(decomposition(name), rank), spectra) for name, rank in sides)
    return min(parts, 1.0)


def error_of(share: float) -> float:
    """The error that counts, of a lost share of the energy."""
    return -math.log(max(1.0 - share, _LEAST_KEPT))


def predicted_error(chosen: Iterable[Option], measured: bool = False) -> float:
    """The relative error of the output that a choice predicts: from 0 to 1, unless measured."""
    summed = sum(option.error for option in chosen)
    return math.sqrt(summed if measured else 1.0 - math.exp(-summed))


def layer_options(
    target: Target,
    times: LayerTimes,
    spectra: dict[str, Any],
    measured: MeasuredLosses | None = None,
) -> list[Option]:
    """The layer as it is, and every form that is faster by the margin.

    Args:
        target: the layer.
        times: its times.
        spectra: spectra by method; new ones are added.
        measured: errors of a scan, which count instead of those of the weights.
    """
    found = [Option(times.whole_ms, 0.0)]
    for form, ms in times.forms:
        if ms > times.whole_ms * (1.0 - MARGIN):
            continue
        try:
            share = lost(target, form, spectra)
        except PlanError:
            # A rank at which cp finds degenerate fits only.
            continue
        error = error_of(share) if measured is None else measured(target, form, share)
        found.append(Option(ms, error, form))
    return found


def _why_whole(times: LayerTimes) -> str:
    best = times.fastest()
    if best is None and times.missing:
        return "no form of it was measured: the time for measuring was up"
    if best is None:
        return "no aligned rank saves multiply-accumulates"
    if best[1] > times.whole_ms * (1.0 - MARGIN):
        return (
            f"no form is faster by {MARGIN:.0%}: {best[0].label} takes {best[1]:.3g} ms, "
            f"the layer {times.whole_ms:.3g} ms"
        )
    return UNUSED


def layer_entry(
    target: Target,
    option: Option,
    times: LayerTimes,
    spectra: Mapping[str, Any],
    measured: MeasuredLosses | None = None,
) -> LayerPlan:
    """The plan's entry for what was chosen for a layer."""
    before = shown(times.whole_ms)
    if option.what is None:
        reason = _why_whole(times)
        return LayerPlan(target.name, WHOLE, reason=reason, ms_before=before, ms_after=before)
    reason = f"measured {times.whole_ms:.3g} -> {option.ms:.3g} ms"
    if option.what.label in times.unstable:
        reason += ", unstable"
    if measured is not None:
        error, blob = math.sqrt(option.error), measured.blob
        reason += f"; the scan expects a relative error of {error:.3g} at {blob}"
    method, rank = option.what.method, option.what.rank
    made = fitted(target, method, rank, reason, spectra.get(method.name))
    return replace(made, ms_before=before, ms_after=shown(option.ms))
