"""Low-rank nets: written from a plan, recalibrated, merged again, and put in the fastest form."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge.bench import (
    QUICK,
    BenchSession,
    Schedule,
    machine_info,
    make_session,
    measure,
)
from caffe_bridge.compress import LayerPlan, Plan, as_weights_of, decomposition, rewrite
from caffe_bridge.compress.batch_norm import recalibrate
from caffe_bridge.compress.calibration import Feed, data_feeds
from caffe_bridge.compress.latency import Form, bottom_shapes, forms_of
from caffe_bridge.compress.latency.single import single_net
from caffe_bridge.compress.latency.whole import original
from caffe_bridge.compress.plan import WHOLE
from caffe_bridge.compress.planner import shown
from caffe_bridge.compress.target import Target, find_targets
from caffe_bridge.experiment.recipe import DEPLOY, NET
from caffe_bridge.experiment.train import score
from caffe_bridge.graph import Shape, load_net, read_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import convert
from caffe_bridge.schema import Record, Weights, load_weights, save_weights, write_text

#: Share of a weight's energy that another form of the same layer may lose.
EXACT = 1e-6
#: How long the forms of one layer are timed.
SCHEDULE = Schedule(
    min_runs=50, min_seconds=0.4, warmup_runs=3, warmup_seconds=0.05, block=5, max_seconds=4.0
)


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


def _candidates(target: Target, rank: int) -> dict[str, Form | None]:
    """The layer whole, plain PCA at its rank, and other forms that compute the same."""
    forms: dict[str, Form | None] = {"whole": None}
    pca = Form(decomposition("pca"), rank)
    forms[pca.label] = pca
    for found in forms_of(target, machine_info().channel_block).values():
        for form in found:
            lost = form.method.predicted_error(target.blob, form.rank, target.group) ** 2
            if lost <= EXACT:
                forms.setdefault(form.label, form)
    return forms


def _measured(
    target: Target, forms: dict[str, Form | None], shape: Shape, threads: int, quick: bool
) -> dict[str, float]:
    """Median milliseconds of every form, all in turn in one run."""
    plan = QUICK if quick else SCHEDULE
    with tempfile.TemporaryDirectory() as folder:
        sessions: dict[str, BenchSession] = {
            label: make_session(
                convert(single_net(target, form, shape), Path(folder) / f"{number}.onnx"),
                threads, batch=shape[0],
            )
            for number, (label, form) in enumerate(forms.items())
        }  # fmt: skip
        timings = measure(
            sessions, plan.min_runs, plan.min_seconds, plan.warmup_runs, plan.warmup_seconds,
            plan.block, plan.max_seconds,
        )  # fmt: skip
    return {label: timing.stats().median_ms for label, timing in timings.items()}


def planned_form(
    tuned: str, ranks: dict[str, int], batch: int, threads: int, quick: bool = False
) -> tuple[Plan, Weights]:
    """Choose the fastest form of every layer of a fine-tuned PCA net that computes the same.

    The net is merged to a dense one. For each layer plain PCA at its rank, the layer whole and the
    planner's forms (:func:`~caffe_bridge.compress.latency.forms_of`: PCA at other ranks, spatial,
    ...) are timed in turn, those forms only as far as they lose no more than :data:`EXACT` of the
    energy. Ranks above the layer's own lose nothing and may be faster, because runtimes work in
    blocks of channels.

    Args:
        tuned: the fine-tuned weights of the PCA net.
        ranks: rank by layer.
        batch: images of one run.
        threads: threads of one operator.
        quick: time only briefly.

    Returns:
        A plan for the dense net, and the weights that it belongs to.
    """
    stored = merged(load_weights(tuned), ranks)
    found = find_targets(read_net(DEPLOY), stored)
    shapes = bottom_shapes(original(load_net(DEPLOY, "TEST"), stored, batch))
    entries = []
    for name, rank in ranks.items():
        target = found[name]
        if not isinstance(target, Target):
            continue
        forms = _candidates(target, rank)
        times = dict.fromkeys(forms, 0.0)
        for shape in shapes[name]:
            for label, ms in _measured(target, forms, shape, threads, quick).items():
                times[label] += ms
        best = min(times, key=lambda label: times[label])
        form = forms[best]
        entries.append(
            LayerPlan(
                name, form.method.name if form else WHOLE, form.rank if form else 0,
                reason=f"{best} is the fastest form of what has rank {rank}",
                ms_before=shown(times["whole"]), ms_after=shown(times[best]),
            )
        )  # fmt: skip
    return Plan(entries, net=DEPLOY, weights=tuned), stored
