"""The whole measurement of several ONNX files against the first of them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from caffe_bridge.bench.machine import machine_info
from caffe_bridge.bench.profile import compare_layers, profile_models
from caffe_bridge.bench.report import BenchResult, LayerResult, ModelResult, difference
from caffe_bridge.bench.session import BenchSession, make_session
from caffe_bridge.bench.timing import FULL, QUICK, Schedule, measure, speed_up
from caffe_bridge.errors import DataError


def _names(paths: Sequence[Path]) -> list[str]:
    """File names without ending; equal ones get their folder, then a number."""
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.stem}" for path in paths]
    return [
        name if names.count(name) == 1 else f"{name}#{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def layer_results(times: Mapping[str, Mapping[str, float]]) -> list[LayerResult]:
    """Layer times by model as one table; the first model is the baseline.

    Parts of decomposed layers are folded into the baseline's layers
    (:func:`~caffe_bridge.bench.profile.compare_layers`).
    """
    names = list(times)
    merged: dict[str, LayerResult] = {}
    for name in names[1:] or names:
        for row in compare_layers(times[names[0]], times[name]):
            found = merged.setdefault(row.layer, LayerResult(row.layer, {}, {}))
            found.ms[names[0]] = row.baseline_ms
            found.ms[name] = row.candidate_ms
            if name != names[0]:
                found.speed_up[name] = row.speed_up
    ordered = [row for row in merged.values() if row.layer != "(runtime)"]
    return ordered + [row for row in merged.values() if row.layer == "(runtime)"]


def compare(
    paths: Sequence[str | os.PathLike[str]],
    *,
    batch: int = 1,
    threads: int = 1,
    device: str = "cpu",
    seed: int = 0,
    quick: bool = False,
    per_layer: bool = True,
    feeds: Mapping[str, np.ndarray] | None = None,
    schedule: Schedule | None = None,
) -> BenchResult:
    """Measure ONNX files against each other in one run; the first is the baseline.

    Args:
        paths: the ONNX files.
        batch: images of one run, where the models leave it open.
        threads: intra-op threads.
        device: "cpu" or "cuda".
        seed: seed of random inputs and of the bootstrap.
        quick: a short schedule for tests and demonstrations.
        per_layer: also profile every model by layer.
        feeds: arrays by input name instead of random ones.
        schedule: how long to measure, instead of ``quick``.

    Raises:
        DataError: no paths, or feeds that do not fit.
        SchemaError: a file is missing or no model.
        BackendError: the device is not available.
    """
    if not paths:
        raise DataError("no model to measure; give at least one ONNX file.")
    plan = schedule or (QUICK if quick else FULL)
    machine = machine_info()
    names = _names([Path(path) for path in paths])
    sessions: dict[str, BenchSession] = {
        name: make_session(path, threads, device, batch=batch, seed=seed, feeds=feeds)
        for name, path in zip(names, paths, strict=True)
    }
    outputs = {name: made.outputs() for name, made in sessions.items()}
    timings = measure(
        sessions, plan.min_runs, plan.min_seconds, plan.warmup_runs, plan.warmup_seconds,
        plan.block, plan.max_seconds,
    )  # fmt: skip
    models = []
    for name, made in sessions.items():
        first = name == names[0]
        models.append(
            ModelResult(
                name=name,
                path=os.fspath(made.path),
                file_bytes=made.path.stat().st_size,
                session_ms=made.session_ms,
                first_run_ms=made.first_run_ms,
                providers=tuple(made.providers),
                stats=timings[name].stats(device),
                speed_up=None if first else speed_up(timings[names[0]], timings[name], seed),
                difference=None if first else difference(outputs[names[0]], outputs[name]),
            )
        )
    used = sessions[names[0]].batch
    sessions.clear()
    layers: list[LayerResult] = []
    if per_layer:
        profiles = profile_models(
            dict(zip(names, paths, strict=True)), threads, batch, 5 if plan == QUICK else 20,
            device=device, seed=seed, feeds=feeds,
        )  # fmt: skip
        layers = layer_results({name: profile.layers for name, profile in profiles.items()})
    now = datetime.datetime.now(datetime.timezone.utc)
    return BenchResult(
        created=now.isoformat(timespec="seconds"),
        threads=threads,
        batch=used,
        device=device,
        seed=seed,
        schedule=plan,
        machine=machine,
        models=tuple(models),
        layers=tuple(layers),
    )
