"""Time of each Caffe layer inside onnxruntime, from its node profile.

The profile itself costs a few microseconds a node, so these times say where the time goes and how
a layer compares with its decomposed form; the speed-up of a whole net comes from
:mod:`caffe_bridge.bench.timing`. Work that the optimiser fuses is reported at the layer whose
operator runs: a ReLU inside a convolution shows 0 ms, its time is in the convolution.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge.bench.onnx_graph import RUNTIME, LayerMap, read_nodes
from caffe_bridge.bench.session import make_session
from caffe_bridge.errors import DataError

_KERNEL = "_kernel_time"
_COARSE_MS = 0.01
#: Endings of the layers that a decomposition makes of one.
PARTS = (
    "_lowrank", "_linear", "_v", "_h", "_in", "_core", "_out", "_group0", "_group1",
)  # fmt: skip


@dataclass(frozen=True)
class LayerProfile:
    """Median milliseconds by layer, in the order of the file; ``(runtime)`` is last.

    Attributes:
        layers: every layer of the model, with 0 where all its work went into another's node.
        total_ms: median of whole profiled runs, executor included.
        runtime: the part of ``(runtime)`` by operator.
    """

    layers: dict[str, float]
    total_ms: float
    runtime: dict[str, float]


@dataclass(frozen=True)
class LayerRow:
    """One layer in two models; ``None`` where a model lacks it.

    The speed-up is ``None`` too where either spends nothing or both stay under ten microseconds,
    since the profile counts whole microseconds.
    """

    layer: str
    baseline_ms: float | None
    candidate_ms: float | None
    speed_up: float | None


def fold_events(events: Sequence[Mapping[str, Any]], layers: LayerMap, skip: int) -> LayerProfile:
    """Medians over the runs of an onnxruntime profile.

    Args:
        events: the profile's events in their order.
        layers: finds the layer of a node.
        skip: how many first runs to leave out.

    Raises:
        DataError: no run is left.
    """
    runs: list[tuple[float, dict[str, float], dict[str, float]]] = []
    by_layer: dict[str, float] = {}
    by_op: dict[str, float] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            op_type = event["args"].get("op_name", "")
            layer = layers.find(name.removesuffix(_KERNEL), op_type)
            by_layer[layer] = by_layer.get(layer, 0.0) + event["dur"] / 1000.0
            if layer == RUNTIME:
                by_op[op_type] = by_op.get(op_type, 0.0) + event["dur"] / 1000.0
        elif name == "model_run":
            runs.append((event["dur"] / 1000.0, by_layer, by_op))
            by_layer, by_op = {}, {}
    kept = runs[skip:]
    if not kept:
        raise DataError(f"the profile holds {len(runs)} runs, {skip} of them are warm-up.")
    seen = dict.fromkeys(name for _, times, _ in kept for name in times)
    order = [name for name in dict.fromkeys([*layers.layers, *seen]) if name != RUNTIME]
    if RUNTIME in seen:
        order.append(RUNTIME)
    ops = dict.fromkeys(name for _, _, times in kept for name in times)
    return LayerProfile(
        layers={n: float(np.median([times.get(n, 0.0) for _, times, _ in kept])) for n in order},
        total_ms=float(np.median([total for total, _, _ in kept])),
        runtime={n: float(np.median([times.get(n, 0.0) for _, _, times in kept])) for n in ops},
    )


def profile_models(
    paths: Mapping[str, str | os.PathLike[str]],
    threads: int = 1,
    batch: int = 1,
    runs: int = 20,
    *,
    warmup: int = 3,
    device: str = "cpu",
    seed: int = 0,
    feeds: Mapping[str, np.ndarray] | None = None,
) -> dict[str, LayerProfile]:
    """Profile ONNX files and fold their nodes back to layers.

    The models run in turn (A B, B A, ...), so that a drift of the machine meets all of them.

    Args:
        paths: the ONNX files by name; a metadata entry ``caffe_layers`` (JSON, node name to layer
            name) is used when present.
        threads: intra-op threads.
        batch: size of a dynamic first axis.
        runs: runs of each whose median counts.
        warmup: runs before them that do not count.
        device: "cpu" or "cuda".
        seed: seed of random feeds.
        feeds: arrays by input name instead of random ones.

    Raises:
        BridgeError: a file cannot be loaded or fed.
    """
    nodes = {name: read_nodes(path) for name, path in paths.items()}
    found: dict[str, LayerProfile] = {}
    with tempfile.TemporaryDirectory(prefix="caffe-bridge-profile-") as folder:
        sessions = {
            name: make_session(
                path, threads, device, batch=batch, seed=seed, feeds=feeds,
                profile_prefix=Path(folder) / f"profile{number}",
            )
            for number, (name, path) in enumerate(paths.items())
        }  # fmt: skip
        turn = list(sessions.values())
        for _ in range(warmup + runs - 1):  # the first run happened when the session was made
            for made in turn:
                made.run()
            turn.reverse()
        for name, made in sessions.items():
            events = json.loads(Path(made.session.end_profiling()).read_text(encoding="utf-8"))
            stored = made.session.get_modelmeta().custom_metadata_map.get("caffe_layers", "{}")
            found[name] = fold_events(events, LayerMap(nodes[name], json.loads(stored)), warmup)
    return found


def _fold(times: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The parts of a decomposed layer summed under its name, where the other model has it whole."""
    folded: dict[str, float] = {}
    for name, value in times.items():
        whole = name
        while whole not in other:
            part = next((p for p in PARTS if whole.endswith(p) and whole != p), "")
            if not part:
                whole = name
                break
            whole = whole.removesuffix(part)
        folded[whole] = folded.get(whole, 0.0) + value
    return folded


def compare_layers(
    baseline: Mapping[str, float], candidate: Mapping[str, float]
) -> list[LayerRow]:  # fmt: skip
    """Put the layers of two models beside each other.

    ``NAME_lowrank`` and ``NAME_linear`` (and the other endings of ``PARTS``) of one model count as
    ``NAME`` if the other model has that layer and not the parts.

    Returns:
        One row a layer in the baseline's order, then what only the candidate has; ``(runtime)``
        is last.
    """
    first, second = _fold(baseline, candidate), _fold(candidate, baseline)
    order = [name for name in dict.fromkeys([*first, *second]) if name != RUNTIME]
    if RUNTIME in first or RUNTIME in second:
        order.append(RUNTIME)
    rows = []
    for name in order:
        before, after = first.get(name), second.get(name)
        ratio = before / after if before and after and max(before, after) >= _COARSE_MS else None
        rows.append(LayerRow(name, before, after, ratio))
    return rows
