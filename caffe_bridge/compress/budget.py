"""Plans for a whole-net budget of parameters or multiply-accumulates, choosing among forms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from caffe_bridge.compress.decompose import Decomposition, Rank, decomposition
from caffe_bridge.compress.plan import WHOLE, LayerPlan, Plan
from caffe_bridge.compress.planner import fitted, shown, unknown_layer
from caffe_bridge.compress.rank.align import align
from caffe_bridge.compress.rank.budget import Option, allocate
from caffe_bridge.compress.sensitivity import Loss, Scan, losses
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
from caffe_bridge.graph import load_net
from caffe_bridge.net import build
from caffe_bridge.schema import Record

UNITS = ("macs", "params")
#: Methods that have a spectrum, so that every rank's error is known at once.
METHODS = ("pca", "weight_svd", "spatial")
#: Ranks tried for each layer and form when they are not aligned to a block.
_LEVELS = 32


@dataclass(frozen=True)
class Place:
    """A layer in its net.

    Args:
        target: the layer and its weight.
        sizes: (bottom, top) for every use of its filters: height and width of a convolution's
            blobs; of a fully connected layer nothing and the number of its products.
    """

    target: Target
    sizes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    def dense(self, unit: str) -> float:
        """Parameters (without bias) or multiply-accumulates of one pass, of the layer as it is."""
        each = self.target.num_output * self.target.inputs
        return each if unit == "params" else each * sum(math.prod(out) for _, out in self.sizes)

    def cost(self, method: Decomposition, rank: Rank, unit: str) -> float:
        """The same of what becomes of it."""
        if unit == "params":
            return method.params(self.target, rank)
        return sum(method.macs(self.target, rank, *pair) for pair in self.sizes)


def places_of(record: Record, found: dict[str, Target | str]) -> dict[str, Place]:
    """Layers of the TEST net that can be decomposed, of those found in it."""
    built = build(load_net(record, "TEST"), fill=False)
    places = {}
    for node, layer in zip(built.graph.nodes, built.layers, strict=True):
        target = found.get(layer.name)
        if not isinstance(target, Target) or layer.name in places:
            continue
        sizes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for bottom, top in zip(node.inputs, node.outputs, strict=True):
            before, after = built.shapes[bottom.index], built.shapes[top.index]
            axes = len(target.kernel)
            if target.is_fc:
                sizes.append(((), (math.prod(after) // target.num_output,)))
                continue
            batch = math.prod(after[: len(after) - axes - 1])
            ends = (tuple(before[-axes:]), tuple(after[-axes:]))
            sizes += [ends] * batch
        places[layer.name] = Place(target, tuple(sizes))
    return places


def _ranks(method: Decomposition, target: Target, block: int) -> list[int]:
    most = method.max_rank(target.blob, target.group)
    if not isinstance(most, int):
        return []
    each = most // target.group
    step = block or max(each // _LEVELS, 1)
    tried = {min(r, each) * target.group for r in range(step, each + step, step)}
    aligned = (align(rank, most, target.group, block) if block else rank for rank in tried)
    return sorted({rank for rank in aligned if isinstance(rank, int)})


def _options(
    place: Place, methods: Sequence[Decomposition], unit: str, block: int, loss: Loss | None
) -> list[Option]:
    dense = place.dense(unit)
    options = [Option(dense, 0.0)]
    target = place.target
    for method in methods:
        if method.refusal(target):
            continue
        spectra = method.spectrum(target.blob, target.group)
        for rank in _ranks(method, target, block):
            cost = place.cost(method, rank, unit)
            if cost < dense:
                error = method.predicted_error(target.blob, rank, target.group, spectra)
                lost = error**2 if loss is None else loss(rank)
                options.append(Option(cost, lost, (method, rank)))
    return options


def budget_plan(
    net: NetLike,
    weights: WeightsLike,
    *,
    unit: str = "macs",
    keep: float = 0.5,
    methods: Sequence[str] = METHODS,
    except_layers: Iterable[str] = (),
    include_fc: bool = True,
    block: int = 0,
    scan: Scan | None = None,
) -> Plan:
    """Choose form and rank of every layer so that the net keeps a share of its cost.

    The loss that is minimised is the sum over layers of the squared relative error of the weight,
    or, with a sensitivity scan, of the net's answers; then the scan's method is the only form.
    Layers that stay whole cost what they cost; the budget covers all layers with a matrix.

    Args:
        net: path, unfiltered record, or spec; built for the TEST phase.
        weights: its trained weights.
        unit: "macs" of one pass at the net's shapes, or "params" without biases.
        keep: share of the cost of all layers that can be decomposed, in (0, 1].
        methods: forms to choose among; they need a spectrum.
        except_layers: names of layers that stay; they are not in the budget.
        include_fc: decompose fully connected layers too.
        block: the runtime's channel block, to multiples of which ranks per group are rounded.
        scan: measured errors; layers that it lacks stay whole.

    Raises:
        PlanError: unknown unit, method or layer, or a budget that nothing keeps.
        WeightError: the weights do not belong to the net.
    """
    if unit not in UNITS:
        raise PlanError(f"budget unit is '{unit}'; give {' or '.join(UNITS)}.")
    if not 0.0 < keep <= 1.0:
        raise PlanError(f"budget keeps {keep} of the cost; give a share above 0 and up to 1.")
    measured = losses(scan) if scan is not None else None
    methods = methods if scan is None else (scan.method,)
    made = [decomposition(name, None, "methods") for name in methods]
    record, stored = as_record(net), as_weights(weights)
    excepted = set(except_layers)
    for name in sorted(excepted - {layer.name for layer in record.layer}):
        raise unknown_layer(record, name, "except_layers")
    found = find_targets(record, stored)
    places = places_of(record, found)
    entries: dict[str, LayerPlan] = {}
    options: dict[str, list[Option]] = {}
    for name, target in found.items():
        reason = target if isinstance(target, str) else ""
        if name in excepted:
            reason = "excepted"
        elif not reason and name not in places:
            reason = "not in the TEST net"
        elif isinstance(target, Target) and target.is_fc and not include_fc:
            reason = "fully connected, and include_fc is off"
        if reason or not isinstance(target, Target):
            entries[name] = LayerPlan(name, WHOLE, reason=reason)
            continue
        if measured is not None and name not in measured:
            entries[name] = LayerPlan(name, WHOLE, reason="not in the sensitivity scan")
            continue
        require_finite(target, stored.source)
        loss = measured[name] if measured is not None else None
        options[name] = _options(places[name], made, unit, block, loss)
    before = sum(places[name].dense(unit) for name in options)
    picked = allocate(options, keep * before)
    for name, option in picked.items():
        dense = places[name].dense(unit)
        if option.what is None:
            entries[name] = LayerPlan(name, WHOLE, reason=f"its {unit} are worth keeping")
            continue
        method, rank = option.what
        reason = f"{unit} {dense:.4g} -> {option.cost:.4g} in a budget of {keep:g}"
        entry = fitted(places[name].target, method, rank, reason)
        if unit == "macs":
            entry = replace(entry, theoretical_speedup=shown(dense / option.cost))
        entries[name] = entry
    after = sum(option.cost for option in picked.values())
    settings: dict[str, Any] = {
        "budget": unit, "keep": keep, "methods": list(methods), "block": block,
        "except_layers": sorted(excepted), "include_fc": include_fc,
        "errors": "weights" if scan is None else f"measured at {scan.blob}",
        f"{unit}_before": before, f"{unit}_after": after,
    }  # fmt: skip
    return Plan([entries[n] for n in found], record.origin, stored.source, settings)
