"""The demo's report: one self-contained HTML file and one JSON with every number."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from caffe_bridge.bench.report import (
    BenchResult,
    conditions,
    layer_head,
    layer_rows,
    load_json,
)
from caffe_bridge.experiment.figures import BLUE, GREY, RED, curves, latency_bars, rank_bars
from caffe_bridge.experiment.stages import write_json
from caffe_bridge.files import atomic_write
from caffe_bridge.net import Net

_TITLES = {"baseline": "baseline", "continued": "control (trained on, no force)", "force": "force"}


def _conv_parameters(net: str) -> int:
    layers = Net(net, "TEST").learnable
    return sum(b.value.numel() for b in layers if b.layer.startswith("conv"))


def _accuracy_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    dense = _conv_parameters("deploy.prototxt")
    rows = [
        {"name": title, "accuracy": results[key]["accuracy"], "parameters": dense,
         "href": results[key]["weights"]}
        for key, title in _TITLES.items()
    ]  # fmt: skip
    for name in ("baseline", "force"):
        small = _conv_parameters(f"{name}_lowrank/deploy.prototxt")
        tuned = results[f"finetune_{name}"]
        rows.append({"name": f"{name}, decomposed", "parameters": small,
                     "accuracy": results["decompose"]["nets"][name]["accuracy"],
                     "href": f"{name}_lowrank/lowrank.caffemodel"})  # fmt: skip
        rows.append({"name": f"{name}, decomposed and fine-tuned", "parameters": small,
                     "accuracy": tuned["accuracy"], "href": tuned["weights"]})  # fmt: skip
    for row in rows:
        row["accuracy"] = f"{row['accuracy']:.2%}"
        row["parameters"] = f"{row['parameters']:,}"
    return rows


def _tiles(results: dict[str, Any], bench: BenchResult) -> list[dict[str, str]]:
    ranks, last = results["ranks"], bench.models[-1]
    ratio = last.speed_up.ratio if last.speed_up else 1.0
    return [
        {"value": f"-{ranks['drop']:.0%}",
         "text": f"mean rank of the forced layers, {ranks['mean']['baseline']:.1f} to "
                 f"{ranks['mean']['force']:.1f}"},
        {"value": f"{results['force']['accuracy']:.2%}",
         "text": f"accuracy with force; baseline {results['baseline']['accuracy']:.2%}"},
        {"value": f"{results['finetune_force']['accuracy']:.2%}",
         "text": "accuracy of the low-rank force net after fine-tuning"},
        {"value": f"{ratio:.2f}x",
         "text": f"measured speed-up of the low-rank force net, batch {bench.batch}"},
    ]  # fmt: skip


_BENCH_HEAD = ("model", "median ms", "p10", "p90", "images/s", "speed-up", "95 % interval",
               "same top-1", "file kB")  # fmt: skip


def _bench_rows(bench: BenchResult) -> list[list[str]]:
    rows = []
    for model in bench.models:
        stats, gain, gap = model.stats, model.speed_up, model.difference
        rows.append([
            model.name, f"{stats.median_ms:.3f}", f"{stats.p10_ms:.3f}", f"{stats.p90_ms:.3f}",
            f"{stats.images_per_s:,.0f}", f"{gain.ratio:.2f}x" if gain else "",
            f"{gain.low:.2f} to {gain.high:.2f}" if gain else "",
            f"{gap.top1:.1%}" if gap and gap.top1 is not None else "",
            f"{model.file_bytes / 1000:.1f}",
        ])  # fmt: skip
    return rows


def _files(results: dict[str, Any]) -> list[dict[str, Any]]:
    models = results["onnx"]["models"]
    return [
        {"title": "nets", "links": ["train_test.prototxt", "deploy.prototxt",
                                    "baseline_lowrank/train_test.prototxt",
                                    "force_lowrank/train_test.prototxt"]},
        {"title": "solvers", "links": [f"{n}/solver.prototxt" for n in
                                       ("baseline", "continued", "force", "baseline_lowrank",
                                        "force_lowrank")]},
        {"title": "plans", "links": ["baseline_lowrank/plan.json", "force_lowrank/plan.json"]},
        {"title": "ONNX", "links": [entry["path"] for entry in models.values()]},
        {"title": "logs", "links": [f"{n}/train.log" for n in ("baseline", "continued", "force")]},
        {"title": "numbers", "links": ["results.json", "bench.json"]},
    ]  # fmt: skip


def write_report(results: dict[str, Any], settings: dict[str, Any]) -> Path:
    """Write ``report.html`` and ``results.json`` into the current folder."""
    write_json(Path("results.json"), {"settings": settings, "results": results})
    bench = load_json(results["bench"]["file"])
    tables, mean = results["ranks"]["tables"], dict(results["ranks"]["mean"])
    layers = list(tables["baseline"])
    mean["full"] = sum(tables["baseline"][name]["full"] for name in layers) / len(layers)
    losses = [
        (title, results[key]["losses"], colour)
        for (key, title), colour in zip(_TITLES.items(), (GREY, BLUE, RED), strict=True)
    ]
    tuned = [
        ("from the baseline", results["finetune_baseline"]["accuracies"], BLUE),
        ("from the force net", results["finetune_force"]["accuracies"], RED),
    ]
    template = resources.files("caffe_bridge.demo").joinpath("report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(template).render(
        sizes=results["data"],
        settings=settings,
        tiles=_tiles(results, bench),
        accuracies=_accuracy_rows(results),
        one_digit=f"{100 / results['data']['test_lmdb']:.1f}",
        rank_bars=_safe(
            rank_bars({k: tables[k] for k in ("baseline", "force")}, settings["energy"])
        ),
        ranks=[{"layer": name, "full": tables["baseline"][name]["full"],
                **{key: tables[key][name]["rank"] for key in tables}} for name in layers],
        mean={key: f"{value:.1f}" for key, value in mean.items()},
        loss_curves=_safe(curves(losses, "training loss", log=True)),
        finetune_curves=_safe(curves(tuned, "test accuracy, %", percent=True)),
        latency_bars=_safe(latency_bars(bench)),
        bench_head=_BENCH_HEAD,
        bench_rows=_bench_rows(bench),
        layer_head=layer_head(bench),
        layer_rows=layer_rows(bench),
        conditions=conditions(bench),
        files=_files(results),
        baseline_weights=results["baseline"]["weights"],
    )  # fmt: skip
    with atomic_write("report.html") as stream:
        stream.write(html.encode())
    return Path("report.html")


def _safe(svg: str) -> Any:
    import markupsafe

    return markupsafe.Markup(svg)
