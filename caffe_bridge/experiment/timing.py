"""The last stages of an experiment: ONNX models, verified, and their times in onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caffe_bridge.bench import compare, to_json
from caffe_bridge.compress import Plan, rewrite
from caffe_bridge.experiment.lowrank import planned_form, save_blobs
from caffe_bridge.experiment.recipe import DEPLOY, NET
from caffe_bridge.experiment.runs import key_of, plain, tuned_key, variants_of
from caffe_bridge.experiment.sparse import sparse_files, sparse_key, sparse_names
from caffe_bridge.experiment.spec import Experiment
from caffe_bridge.experiment.stages import Stage
from caffe_bridge.experiment.train import score
from caffe_bridge.graph import read_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export, save
from caffe_bridge.onnx_export.verify import verify
from caffe_bridge.schema import write_text

Results = dict[str, Any]
#: Ending of the models whose layers stand in the form that the planner picked.
PLANNED = "_planned"


class Timing:
    """Stages ``planned``, ``onnx`` and ``bench``, for the first seed's nets.

    Args:
        experiment: what is run.
        layers: the decomposed layers.
        batches: batches of one test.
        quick: time only briefly.
        device: where nets are scored.
    """

    def __init__(
        self, experiment: Experiment, layers: tuple[str, ...], batches: int, quick: bool,
        device: str,
    ) -> None:  # fmt: skip
        self.experiment, self.layers = experiment, layers
        self.batches, self.quick, self.device = batches, quick, device
        self.seed = experiment.seeds[0]

    def stages(self) -> Iterator[Stage]:
        """The three stages."""
        names = variants_of(self.experiment)
        needs = (key_of("baseline", self.seed), f"decompose_s{self.seed}",
                 *(tuned_key(name, self.seed) for name in names))  # fmt: skip
        bench = self.experiment.bench
        yield Stage("planned", "pick the fastest form of every layer", self._planned,
                    {**bench, "quick": self.quick}, needs,
                    alone=True)  # fmt: skip
        sparse = (sparse_key(name, self.seed) for name in sparse_names(self.experiment))
        yield Stage("onnx", "export to ONNX and verify", self._onnx, {},
                    (*needs, "planned", *sparse))  # fmt: skip
        yield Stage("bench", "time in onnxruntime", self._bench, {**bench, "quick": self.quick},
                    ("onnx",), alone=True)  # fmt: skip

    def _planned(self, results: Results) -> Results:
        bench = self.experiment.bench
        made: Results = {}
        for name in variants_of(self.experiment):
            start = results[f"decompose_s{self.seed}"]["nets"][name]
            tuned = results[tuned_key(name, self.seed)]["weights"]
            plan, weights = planned_form(tuned, start["ranks"], bench["batch"], bench["threads"],
                                         self.quick)  # fmt: skip
            folder = Path(f"planned_{plain(name)}")
            folder.mkdir(exist_ok=True)
            plan.save(folder / "plan.json")
            net, blobs = rewrite(read_net(NET), weights, plan)
            write_text(net, folder / NET)
            write_text(rewrite(read_net(DEPLOY), weights, plan)[0], folder / DEPLOY)
            model = folder / "net.caffemodel"
            save_blobs(model, net, blobs)
            made[name] = {
                "folder": str(folder), "weights": str(model), "forms": _forms(plan),
                "accuracy": score(folder / NET, model, self.batches, self.device),
            }  # fmt: skip
        text = "; ".join(f"{n}: {', '.join(m['forms'].values())}" for n, m in made.items())
        return {"nets": made, "headline": text}

    def _files(self, results: Results) -> dict[str, tuple[str, str]]:
        files = {"dense": (DEPLOY, results[key_of("baseline", self.seed)]["weights"])}
        for name in variants_of(self.experiment):
            folder = results[f"decompose_s{self.seed}"]["nets"][name]["folder"]
            tuned = results[tuned_key(name, self.seed)]["weights"]
            files[plain(name)] = (f"{folder}/{DEPLOY}", tuned)
            best = results["planned"]["nets"][name]
            files[plain(name) + PLANNED] = (f"{best['folder']}/{DEPLOY}", best["weights"])
        return files | sparse_files(results, self.experiment)

    def _onnx(self, results: Results) -> Results:
        Path("onnx").mkdir(exist_ok=True)
        made: Results = {}
        for name, (net, weights) in self._files(results).items():
            model = Net(net, "TEST", weights=weights)
            check = verify(model, seed=self.seed)
            check.require(name)
            path = save(export(model), f"onnx/{name}.onnx")
            made[name] = {"path": str(path), "bytes": path.stat().st_size, "worst": check.worst}
        worst = max(entry["worst"] for entry in made.values())
        return {"models": made, "headline": f"{len(made)} models, worst difference {worst:.1g}"}

    def _bench(self, results: Results) -> Results:
        paths = [entry["path"] for entry in results["onnx"]["models"].values()]
        bench = self.experiment.bench
        measured = compare(paths, batch=bench["batch"], threads=bench["threads"], quick=self.quick,
                           seed=self.seed, per_layer=False)  # fmt: skip
        text = ", ".join(f"{m.name} {m.stats.median_ms:.2f} ms" for m in measured.models)
        return {"bench": json.loads(to_json(measured)), "headline": text}


def _forms(plan: Plan) -> dict[str, str]:
    """What each layer became, in words."""
    return {
        entry.layer: "whole" if entry.whole else f"{entry.method} {entry.rank}"
        for entry in plan.layers
    }
