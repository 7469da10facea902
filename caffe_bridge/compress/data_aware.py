"""Decomposition that keeps a layer's answers on data instead of its weights.

With the weight M of a layer, its responses y = M x on sampled inputs of the whole net, and g = M x^
on what the net gives the layer once the layers before it are decomposed, reduced-rank regression
finds the rank-r map of g that comes nearest to y:

    A = S_yg (S_gg + eps I)^-1                      (S centred second moments)
    U_r = leading eigenvectors of A S_gg A^T
    NAME_lowrank = U_r^T A M,   NAME_linear = U_r,   bias = b + mu_y - U_r U_r^T A mu_g

``asymmetric=False`` takes x^ = x, which leaves A = I: the output PCA with the mean as bias of Zhang
et al., "Accelerating very deep convolutional networks for classification and detection", TPAMI
2016; the asymmetric form, front to back, is theirs as well. Groups are solved each for itself.

The layers made are those of filter PCA, for ``svd`` with the scale where its ``balance`` wants it,
so names, ranks and costs are the same; a layer without a
bias gets one, which the mean needs. Only second moments [N, N] are kept of each layer, from
``positions`` seeded random places of every batch item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from caffe_bridge.compress.calibration import Feed, Moments
from caffe_bridge.compress.chain import as_stored, layer_param, pointwise
from caffe_bridge.compress.decompose import decomposition, total
from caffe_bridge.compress.decompose.base import LINEAR, LOWRANK
from caffe_bridge.compress.decompose.svd import EXPONENT, Svd
from caffe_bridge.compress.plan import LayerPlan, Plan
from caffe_bridge.compress.planner import adjusted, fitted, shown, unless_larger
from caffe_bridge.compress.rank import rank_for
from caffe_bridge.compress.relu_aware import before_relu, fit_before_relu
from caffe_bridge.compress.responses import Factors, moments, node_index, regress, responses
from caffe_bridge.compress.rewrite import Blobs, as_weights_of, rewrite
from caffe_bridge.compress.target import Target, bias_sharers, find_targets
from caffe_bridge.errors import PlanError
from caffe_bridge.graph import load_net
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, Weights

#: Methods whose pair of layers the data-aware factors fit.
PAIRS = ("pca", "svd")


@dataclass(frozen=True)
class DataAware:
    """A decomposed net: its record, the blobs of its layers, and the plan with output errors."""

    net: Record
    blobs: Blobs
    plan: Plan


def _left(found: Moments, vectors: np.ndarray, reduced: np.ndarray) -> tuple[float, float]:
    """Squared error of the centred responses, and their squared norm."""
    yy, yg, gg = found.covariances
    made = vectors @ reduced
    left = np.trace(yy) - 2 * np.sum(made * yg) + np.sum((made @ gg) * made)
    return max(float(left), 0.0), float(np.trace(yy))


def _share(entry: LayerPlan) -> float:
    """The power of a rank's scale that the combination takes."""
    method = decomposition(entry.method, entry.options)
    return EXPONENT[method.balance] if isinstance(method, Svd) else 0.0


def put_factors(
    target: Target, solved: Sequence[Factors], blobs: Blobs, share: float = 0.0
) -> None:  # fmt: skip
    """Put the factors of every group into the blobs, as filter PCA stores them.

    Args:
        target: the layer.
        solved: the factors of its groups; the columns of the combinations have norm 1.
        blobs: takes the blobs of both layers.
        share: the power of the norm of a rank's basis filter that goes to the combination, as of
            :mod:`svd <caffe_bridge.compress.decompose.svd>`.
    """
    filters = np.split(target.weight.astype(np.float64), target.group)
    bases, combinations = [], []
    for (vectors, reduced, _), part in zip(solved, filters, strict=True):
        made = reduced @ part
        norm = np.linalg.norm(made, axis=1)
        scale = np.where(norm > 0, norm, 1.0) ** share
        bases.append(made / scale[:, None])
        combinations.append(vectors * scale)
    basis, combination = np.concatenate(bases), np.concatenate(combinations)
    bias = np.concatenate([s[2] for s in solved])
    if target.bias is not None:
        bias = bias + target.bias
    if target.is_fc:
        pair = [basis, combination]
        if target.record.inner_product_param.transpose:
            pair = [m.T for m in pair]
    else:
        pair = [basis.reshape(-1, *target.shape), pointwise(combination, len(target.kernel))]
    blobs[target.name + LOWRANK] = [as_stored(pair[0], target)]
    blobs[target.name + LINEAR] = [as_stored(pair[1], target), as_stored(bias, target)]


def _replace(
    target: Target, found: list[Moments], rank: int, exact: bool, blobs: Blobs, share: float
) -> float:
    """Put the data-aware factors into the blobs; returns the relative error of the responses."""
    solved = [regress(part, rank // target.group, exact) for part in found]
    put_factors(target, solved, blobs, share)
    errors = [_left(part, s[0], s[1]) for part, s in zip(found, solved, strict=True)]
    norm = sum(n for _, n in errors)
    return float(np.sqrt(sum(e for e, _ in errors) / norm)) if norm > 0 else 0.0


def _without_data(entry: LayerPlan, sharers: Sequence[str]) -> LayerPlan:
    """The entry of a layer that was not fitted to data, with the reason; whole ones as they are."""
    if entry.whole:
        return entry
    why = f"{entry.method} is fitted to weights only"
    if entry.method in PAIRS:
        why = f"its bias is shared with {', '.join(sharers)}"
    return replace(entry, reason=f"{entry.reason}; without data, because {why}".lstrip("; "))


def _with_biases(net: Record, names: set[str]) -> None:
    for layer in net.layer:
        if layer.name in {name + LINEAR for name in names}:
            layer_param(layer).bias_term = True


def output_ranks(
    net: Record,
    weights: Weights,
    feeds: Sequence[Feed],
    energy: float,
    *,
    layers: Sequence[str] | None = None,
    rule: str = "energy",
    include_fc: bool = False,
    positions: int = 32,
) -> Plan:
    """A plan whose ranks keep a share of the energy of the layers' centred responses.

    Args:
        net: unfiltered NetParameter in the current format.
        weights: its weights.
        feeds: batches for the TEST net.
        energy: ratio for the rule.
        layers: names; all that can be decomposed when None.
        rule: name of the rank rule.
        include_fc: fully connected layers too, when ``layers`` is None.
        positions: places of each item that are sampled; 0 for all.

    Raises:
        PlanError: ratio or rule are wrong, or a named layer cannot be decomposed.
    """
    found = find_targets(net, weights)
    for name in layers or ():
        if not isinstance(found.get(name), Target):
            reason = found.get(name, "it is no layer with a weight matrix")
            raise PlanError(f"layers: {name} cannot be decomposed: {reason}; remove it.")
    whole = Net(load_net(net, "TEST"), weights=weights)
    present = {layer.name for layer in whole.built.layers}
    entries = []
    for name, target in found.items():
        listed = name in layers if layers is not None else True
        if not listed or not isinstance(target, Target) or target.depthwise or name not in present:
            continue
        if layers is None and target.is_fc and not include_fc:
            continue
        parts = moments(whole, target, feeds, positions=positions)
        spectra = [np.clip(np.linalg.eigvalsh(p.covariances[0])[::-1], 0, None) for p in parts]
        size = target.num_output // target.group
        most = target.group * min(size, target.inputs)
        rank = min(rank_for(spectra, energy, rule, (size, parts[0].count)), most)
        reason = f"responses keep {energy:g} by rule {rule}"
        entries.append(LayerPlan(name, "pca", rank, reason=reason))
    settings = {"data_aware": True, "energy": energy, "rule": rule}
    return Plan(entries, net.origin, weights.source, settings)


def with_response_ranks(
    plan: Plan, net: Record, weights: Weights, feeds: Sequence[Feed], energy: float, rule: str,
    block: int = 0, floor: int = 0, only_smaller: bool = False,
) -> Plan:  # fmt: skip
    """A plan whose pca and svd layers have the ranks of their responses (:func:`output_ranks`).

    Args:
        plan: which layers, with ranks that are replaced.
        net: unfiltered NetParameter in the current format.
        weights: its weights.
        feeds: batches for the TEST net.
        energy: ratio for the rule.
        rule: name of the rank rule.
        block: round ranks per group up to a multiple of it; 0 for no rounding.
        floor: raise the ranks to this many in each group before.
        only_smaller: layers of any method that would not save multiply-accumulates become whole.

    Raises:
        PlanError: ratio or rule are wrong.
    """
    names = [entry.layer for entry in plan.decomposed() if entry.method in PAIRS]
    found = {e.layer: e for e in output_ranks(net, weights, feeds, energy, layers=names, rule=rule)
             .layers}  # fmt: skip
    targets = find_targets(net, weights)
    entries = []
    for entry in plan.layers:
        target = targets.get(entry.layer)
        if entry.layer in found and isinstance(target, Target):
            method, chosen = decomposition(entry.method, entry.options), found[entry.layer]
            rank, reason = adjusted(target, method, total(chosen.rank), chosen.reason, block, floor)
            entry = fitted(target, method, rank, reason, None, entry.options)
        if only_smaller and not entry.whole and isinstance(target, Target):
            entry = unless_larger(entry, target)
        entries.append(entry)
    settings = {
        **plan.settings,
        "ranks_of": "responses",
        "force_whole_if_not_smaller": only_smaller,
    }
    return replace(plan, layers=entries, settings=settings)


def decompose_with_data(
    net: Record,
    weights: Weights,
    plan: Plan,
    feeds: Sequence[Feed],
    *,
    asymmetric: bool = True,
    positions: int = 32,
    relu: bool = False,
) -> DataAware:
    """Replace the planned layers, front to back, by factors that keep their answers on data.

    Args:
        net: unfiltered NetParameter in the current format.
        weights: its weights.
        plan: layers and ranks; entries of other methods than pca and svd, and those whose bias
            other layers share, are made without data.
        feeds: batches for the TEST net.
        asymmetric: regress on what the decomposed net gives the layer, not on the whole net's.
        positions: places of each item that are sampled; 0 for all.
        relu: for layers with a ReLU right behind them keep what passes it
            (see :mod:`caffe_bridge.compress.relu_aware`).

    Returns:
        Record and blobs as of :func:`~caffe_bridge.compress.rewrite.rewrite`, and the plan with
        ``error`` the relative error of the centred responses.

    Raises:
        PlanError: the plan does not fit the net, or there is no batch.
        WeightError: the weights do not belong to the net.
    """
    if not feeds:
        raise PlanError("data-aware decomposition wants at least one batch of inputs.")
    made, blobs = rewrite(net, weights, plan)
    found = find_targets(net, weights)
    whole = Net(load_net(net, "TEST"), weights=weights)
    order = [layer.name for layer in whole.built.layers]
    shared: dict[str, Sequence[str]] = {
        entry.layer: bias_sharers(net, entry.layer) for entry in plan.decomposed()
    }
    wanted = {
        entry.layer: entry
        for entry in plan.decomposed()
        if entry.method in PAIRS and not shared[entry.layer]
    }
    for name in wanted:
        node_index(whole, name)
    _with_biases(made, set(wanted))
    for name in wanted:
        # Until their turn comes, layers without a bias have one of zeros.
        if len(blobs[name + LINEAR]) == 1:
            weight = blobs[name + LINEAR][0]
            target = found[name]
            filters = target.num_output if isinstance(target, Target) else 0
            blobs[name + LINEAR].append(np.zeros(filters, weight.dtype))
    errors: dict[str, float] = {}
    for name in sorted(wanted, key=order.index):
        target = found[name]
        if not isinstance(target, Target):
            continue
        other = Net(load_net(made, "TEST"), weights=as_weights_of(blobs)) if asymmetric else None
        rank, share = total(wanted[name].rank), _share(wanted[name])
        if relu and before_relu(whole, name):
            batches = responses(whole, target, feeds, other, positions)
            solved, errors[name] = fit_before_relu(target, batches, rank, not asymmetric)
            put_factors(target, solved, blobs, share)
            continue
        parts = moments(whole, target, feeds, other, positions)
        errors[name] = _replace(target, parts, rank, not asymmetric, blobs, share)
    way = "asymmetric" if asymmetric else "symmetric"
    entries = [
        replace(e, error=shown(errors[e.layer]), energy=shown(1 - errors[e.layer] ** 2),
                reason=f"{e.reason}; {way} fit to responses".lstrip("; "))
        if e.layer in errors else _without_data(e, shared.get(e.layer, ()))
        for e in plan.layers
    ]  # fmt: skip
    settings = {**plan.settings, "data_aware": f"{way}, before ReLU" if relu else way}
    return DataAware(made, blobs, Plan(entries, plan.net, plan.weights, settings))
