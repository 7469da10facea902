"""Speed at the paper's ranks: decomposed nets with random weights, timed whole and by layer.

Time does not depend on the values of weights, so that no training is needed. The experiment file::

    {"kind": "speed", "title": "AlexNet", "deploy": "deploy.prototxt", "seed": 1,
     "batches": [1, 32], "threads": [1],
     "nets": [{"name": "table 4, L2 force", "ranks": {"conv3": 124, ...},
               "paper": {"cpu": {"conv3": 2.45, ...}, "gpu": {...}}, "error": "top-1 43.25 %"}]}

``ranks`` is a config of :func:`caffe_bridge.compress.make_plan`; an empty one is a net whose ranks
are not known, of which only the paper's numbers are shown. ``(whole)`` in ``paper`` is the net.
Each net is also made with its ranks rounded up to the runtime's channel block.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caffe_bridge import __version__
from caffe_bridge.bench import compare, conditions, from_json, machine_info, to_json
from caffe_bridge.compress import make_plan, rewrite
from caffe_bridge.compress.rewrite import as_weights_of
from caffe_bridge.errors import SchemaError
from caffe_bridge.experiment.figures import latency_bars
from caffe_bridge.experiment.page import RESULTS, VERSION, Page, write_page
from caffe_bridge.experiment.spec import read_declaration
from caffe_bridge.experiment.stages import Stage, inside, run_stages, stage_seconds, write_json
from caffe_bridge.graph import read_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import convert
from caffe_bridge.schema import format_text

SPEED = "speed"
WHOLE_NET = "(whole)"
Results = dict[str, Any]
_ENTRIES = {"kind", "title", "deploy", "seed", "batches", "threads", "nets"}


def _counts(data: dict[str, Any]) -> bool:
    """Whether seed, batches and threads are whole numbers."""
    lists = (data["batches"], data["threads"])
    return isinstance(data["seed"], int) and all(
        isinstance(x, list) and x and all(isinstance(n, int) and n > 0 for n in x) for x in lists
    )


def load_speed(path: Path) -> dict[str, Any]:
    """Read the experiment file; ``folder`` is added.

    Raises:
        SchemaError: it is not of this form.
    """
    data = read_declaration(path)
    nets = data.get("nets")
    known = isinstance(nets, list) and all(
        isinstance(net, dict) and {"name", "ranks", "paper", "error"} == set(net) for net in nets
    )
    if set(data) != _ENTRIES or data["kind"] != SPEED or not known or not _counts(data):
        raise SchemaError(
            f"{path}: wants the entries {', '.join(sorted(_ENTRIES))}, and of each net name, "
            "ranks, paper and error; see solvers/alexnet/experiment.json."
        )
    return {**data, "folder": str(path.parent)}


class _Speed:
    def __init__(self, experiment: dict[str, Any], device: str, quick: bool) -> None:
        self.experiment, self.device, self.quick = experiment, device, quick
        self.block = machine_info().channel_block

    def stages(self) -> list[Stage]:
        e = self.experiment
        deploy = format_text(read_net(Path(e["folder"]) / e["deploy"]))
        note = {"nets": e["nets"], "seed": e["seed"], "block": self.block, "deploy": deploy}
        bench = {"batches": e["batches"], "threads": e["threads"], "quick": self.quick}
        return [
            Stage("onnx", "decompose and export to ONNX", self._onnx, note, ()),
            Stage("bench", "time in onnxruntime", self._bench, bench, ("onnx",), alone=True),
        ]

    def _onnx(self, _results: Results) -> Results:
        e = self.experiment
        deploy = read_net(Path(e["folder"]) / e["deploy"])
        dense = Net(deploy, "TEST", seed=e["seed"])
        weights = as_weights_of(
            {x.name: [b.detach().numpy() for b in x.blobs] for x in dense.built.layers if x.blobs},
            "random weights",
        )
        Path("onnx").mkdir(exist_ok=True)
        made: Results = {"dense": {"path": str(convert(dense.eval(), "onnx/dense.onnx"))}}
        for number, net in enumerate(e["nets"]):
            seen: list[Results] = []
            for block in (0, self.block) if net["ranks"] else ():
                plan = make_plan(deploy, weights, config=net["ranks"], block=block)
                ranks: Results = {entry.layer: entry.rank for entry in plan.decomposed()}
                if ranks in seen:
                    continue
                seen.append(ranks)
                name = net["name"] + (", aligned" if block else "")
                low, blobs = rewrite(deploy, weights, plan)
                small = Net(low, "TEST", weights=as_weights_of(blobs))
                path = convert(small.eval(), f"onnx/net{number}{'_aligned' * bool(block)}.onnx")
                made[name] = {
                    "path": str(path), "ranks": ranks, "of": net["name"],
                    "theoretical": {x.layer: x.theoretical_speedup for x in plan.decomposed()},
                }  # fmt: skip
        return {"models": made, "headline": f"{len(made)} models"}

    def _bench(self, results: Results) -> Results:
        models, made = results["onnx"]["models"], []
        names = {Path(model["path"]).stem: name for name, model in models.items()}
        for batch in self.experiment["batches"]:
            for threads in self.experiment["threads"]:
                found = compare(
                    [model["path"] for model in models.values()], batch=batch, threads=threads,
                    device=self.device, quick=self.quick, seed=self.experiment["seed"],
                )  # fmt: skip
                made.append(json.loads(to_json(found)))
        return {"runs": made, "names": names, "headline": f"{len(made)} runs"}


def run_speed(
    experiment: dict[str, Any], folder: Path, device: str, quick: bool, say: Callable[[str], None]
) -> list[Path]:
    """Run what is not done yet; write results.json and the report; returns the report's paths."""
    folder.mkdir(parents=True, exist_ok=True)
    experiment = {**experiment, "folder": os.path.relpath(experiment["folder"], folder)}
    with inside(folder):
        work = _Speed(experiment, device, quick)
        stages = work.stages()
        results = run_stages(stages, {"version": __version__, "device": device}, say)
        kept = {k: v for k, v in experiment.items() if k != "folder"}
        document = {
            "version": VERSION, "kind": SPEED, "written_by": __version__, "experiment": kept,
            "seconds": stage_seconds(stages), "results": results,
        }  # fmt: skip
        write_json(Path(RESULTS), document)
    return write_page(folder, speed_page(document))


def _paper(net: dict[str, Any], where: str, layer: str) -> str:
    value = net["paper"].get(where, {}).get(layer)
    return f"{value:.2f}x" if value is not None else "not found"


def _rows(document: dict[str, Any], run: dict[str, Any]) -> list[list[str]]:
    """One row a layer of every net of a run, the whole net last."""
    results = document["results"]
    names, models = results["bench"]["names"], results["onnx"]["models"]
    nets = {net["name"]: net for net in document["experiment"]["nets"]}
    layers = {row["layer"]: row for row in run["layers"]}
    dense = run["models"][0]["name"]
    rows = []
    for model in run["models"][1:]:
        name = names[model["name"]]
        made = models[name]
        net, exact = nets[made["of"]], made["of"] == name
        for layer, rank in made["ranks"].items():
            found = layers.get(layer, {"ms": {}, "speed_up": {}})
            gain = found["speed_up"].get(model["name"])
            before, after = (found["ms"].get(x) for x in (dense, model["name"]))
            paper = [_paper(net, x, layer) if exact else "" for x in ("cpu", "gpu")]
            rows.append([
                name, layer, str(rank), f"{made['theoretical'][layer]:.2f}x",
                *("" if x is None else f"{x:.3f}" for x in (before, after)),
                "" if gain is None else f"{gain:.2f}x", *paper,
            ])  # fmt: skip
        gain = model["speed_up"]
        times = (run["models"][0]["stats"]["median_ms"], model["stats"]["median_ms"])
        paper = [_paper(net, x, WHOLE_NET) if exact else "" for x in ("cpu", "gpu")]
        rows.append([
            name, "whole net", "", "", *(f"{x:.3f}" for x in times),
            f"{gain['ratio']:.2f}x ({gain['low']:.2f} to {gain['high']:.2f})"
            + (", unstable" if model["stats"]["unstable"] else ""), *paper,
        ])  # fmt: skip
    return rows


def speed_page(document: dict[str, Any]) -> Page:
    """The report of a speed experiment."""
    e, results = document["experiment"], document["results"]
    head = ["net", "layer", "rank", "theoretical", "ms before", "ms after", "measured",
            "paper, CPU", "paper, GPU"]  # fmt: skip
    tables, figures, facts = [], [], [
        f"Written by caffe_bridge {document['written_by']}. Random weights, seed {e['seed']}.",
        "The paper's processor, batch size and libraries were not found.",
    ]  # fmt: skip
    for run in results["bench"]["runs"]:
        result = from_json(json.dumps(run), RESULTS)
        what = f"batch {run['batch']}, {run['threads']} thread(s), {run['device']}"
        tables.append((f"Speed-ups, {what}", head, _rows(document, run)))
        figures.append((f"Whole nets, {what}", latency_bars(result)))
        facts.append(conditions(result))
    layers = list(dict.fromkeys(x for net in e["nets"] for x in net["paper"].get("cpu", {})))
    published = [
        [net["name"], net["error"], *(_paper(net, "cpu", layer) for layer in layers)]
        for net in e["nets"]
    ]
    tables.append(("The paper's numbers, CPU", ["net", "error", *layers], published))
    told = [
        f"{results['bench']['names'][model['name']]}: {model['speed_up']['ratio']:.2f}x whole "
        f"({run['batch']} images, {run['threads']} thread(s))."
        for run in results["bench"]["runs"]
        for model in run["models"][1:]
    ]
    return Page(e["title"], facts, told, tables, figures)
