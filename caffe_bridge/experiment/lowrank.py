"""Low-rank nets: written from a plan, recalibrated, merged again, and put in the fastest form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge.bench import machine_info
from caffe_bridge.compress import LayerPlan, Plan, as_weights_of, decomposition, rewrite
from caffe_bridge.compress.batch_norm import recalibrate
from caffe_bridge.compress.calibration import Feed, data_feeds
from caffe_bridge.compress.latency import Form, LatencyCache, bottom_shapes, latency_table
from caffe_bridge.compress.latency.single import layer_key, single_net, time_net
from caffe_bridge.compress.latency.whole import original
from caffe_bridge.compress.plan import WHOLE
from caffe_bridge.compress.target import Target, find_targets
from caffe_bridge.experiment.recipe import DEPLOY, NET
from caffe_bridge.experiment.train import score
from caffe_bridge.graph import load_net, read_net
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, Weights, load_weights, save_weights, write_text

#: Share of a weight's energy that another form of the same layer may lose.
EXACT = 1e-6


def _training_feeds(batches: int) -> list[Feed]:
    """Batches of the training data, with the names of the deploy net's inputs."""
    model = Net(NET, "TRAIN")
    wanted = Net(DEPLOY).inputs
    return [{name: feed[name] for name in wanted} for feed in data_feeds(model, batches)]


def save_blobs(path: Path, net: Record, blobs: dict[str, list[np.ndarray]]) -> None:
    """Write blobs as a caffemodel of a net, each layer once."""
    stored = net.copy()
    unique = {layer.name: layer for layer in reversed(net.layer)}
    stored.layer = [layer for layer in net.layer if unique[layer.name] is layer]
    save_weights(path, stored, {name: list(arrays) for name, arrays in blobs.items()})


def write_lowrank(
    plan: Plan, weights: Weights, folder: str, batches: int, device: str = "cpu",
    recalibrated: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Write a decomposed net, its deploy net, its weights and the plan; score it.

    Args:
        plan: what becomes of which layer.
        weights: the dense weights.
        folder: where the files go.
        batches: batches of the test.
        device: where it is scored.
        recalibrated: training batches for new BatchNorm statistics; 0 keeps the old ones.

    Returns:
        ``ranks`` by layer, ``folder``, ``weights``, number of ``parameters``, ``accuracy``.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    plan.save(place / "plan.json")
    lowrank, blobs = rewrite(read_net(NET), weights, plan)
    write_text(lowrank, place / NET)
    deploy, _ = rewrite(read_net(DEPLOY), weights, plan)
    write_text(deploy, place / DEPLOY)
    start = place / "lowrank.caffemodel"
    save_blobs(start, lowrank, blobs)
    if recalibrated and any(layer.type == "BatchNorm" for layer in lowrank.layer):
        model = Net(place / DEPLOY, "TEST", weights=start)
        for name in recalibrate(model, _training_feeds(recalibrated)):
            blobs[name] = [b.detach().cpu().numpy() for b in model.layer(name).blobs]
        save_blobs(start, lowrank, blobs)
    return {
        "ranks": {entry.layer: entry.rank for entry in plan.decomposed()},
        "folder": folder, "weights": str(start),
        "parameters": sum(array.size for arrays in blobs.values() for array in arrays),
        "accuracy": score(place / NET, start, batches, device),
    }  # fmt: skip


def merged(weights: Weights, layers: Iterable[str]) -> Weights:
    """The weights of the dense net that computes what a PCA net computes.

    A layer's weight is the product of its ``_linear`` and ``_lowrank`` weights, group by group.
    """
    made: dict[str, list[np.ndarray]] = {}
    names = set(layers)
    given = {
        name: [np.asarray(blob.array()) for blob in stored if blob is not None]
        for name, stored in weights.blobs.items()
    }
    for name, arrays in given.items():
        stem = name.removesuffix("_linear")
        if name.removesuffix("_lowrank") in names and name not in names:
            continue
        if stem in names and stem != name:
            basis = given[f"{stem}_lowrank"][0].astype(np.float64)
            outputs, inner = arrays[0].shape[0], arrays[0].reshape(len(arrays[0]), -1).shape[1]
            groups = len(basis) // inner
            left = arrays[0].reshape(groups, outputs // groups, inner).astype(np.float64)
            right = basis.reshape(groups, inner, -1)
            weight = (left @ right).reshape(outputs, *basis.shape[1:])
            made[stem] = [weight.astype(np.float32), *arrays[1:]]
        else:
            made[name] = arrays
    return as_weights_of(made, weights.source)


def _fastest(
    target: Target, rank: int, candidates: list[tuple[Form | None, float]]
) -> tuple[LayerPlan, float]:
    """The fastest candidate that computes the same."""
    whole = candidates[0][1]
    best: tuple[Form | None, float] = (None, whole)
    for form, ms in candidates[1:]:
        if form is None or ms >= best[1]:
            continue
        lost = form.method.predicted_error(target.blob, form.rank, target.group) ** 2
        if lost <= EXACT:
            best = (form, ms)
    form, ms = best
    reason = f"fastest form of what has rank {rank}: {ms:.3g} ms, {whole:.3g} whole"
    if form is None:
        return LayerPlan(target.name, WHOLE, reason=reason, ms_before=whole, ms_after=ms), ms
    entry = LayerPlan(target.name, form.method.name, form.rank, reason=reason, ms_before=whole,
                      ms_after=ms)  # fmt: skip
    return entry, ms


def planned_form(
    folder: str, tuned: str, ranks: dict[str, int], batch: int, threads: int,
    cache: str | None = None, progress: Callable[[str], None] | None = None,
) -> tuple[Plan, Weights]:  # fmt: skip
    """Choose the fastest form of every layer of a fine-tuned PCA net that computes the same.

    The net is merged to a dense one; for each layer the latency table's forms (whole, PCA at other
    ranks, spatial, ...) compete with plain PCA, as far as they lose no more than :data:`EXACT` of
    the energy. Ranks above the layer's own lose nothing and may be faster, because runtimes work in
    blocks of channels.

    Args:
        folder: unused but for messages: where the PCA net lies.
        tuned: its fine-tuned weights.
        ranks: rank by layer.
        batch: images of one run.
        threads: threads of one operator.
        cache: JSON file of known times.
        progress: told about every layer.

    Returns:
        A plan for the dense deploy net, and the weights that it belongs to.
    """
    stored = merged(load_weights(tuned), ranks)
    net = read_net(DEPLOY)
    found = find_targets(net, stored)
    targets = {name: t for name, t in found.items() if name in ranks and isinstance(t, Target)}
    shapes = bottom_shapes(original(load_net(DEPLOY, "TEST"), stored, batch))
    known = LatencyCache(cache, threads, "cpu")
    table = latency_table(targets, shapes, known, threads=threads,
                          block=machine_info().channel_block, progress=progress)  # fmt: skip
    entries = []
    for name, target in targets.items():
        plain = Form(decomposition("pca"), ranks[name])
        ms = 0.0
        for shape in shapes[name]:
            entry = f"{layer_key(target, shape)} | {plain.label}"
            one = known.get(entry)
            if one is None:
                one = time_net(single_net(target, plain, shape), batch, threads)
                known.put(entry, one)
            ms += one
        rows: list[tuple[Form | None, float]] = [(None, table[name].whole_ms), (plain, ms)]
        entries.append(_fastest(target, ranks[name], [*rows, *table[name].forms])[0])
    known.save()
    return Plan(entries, net=f"{folder}/{NET}", weights=tuned), stored
