"""The stages of an experiment, from the baseline to timed low-rank ONNX models.

Dense nets ("runs"): ``baseline``; ``control``, trained on as long as force but without it; one for
each kind and strength of force. Low-rank nets ("variants"): ``baseline`` and each kept force at the
same energy, and the baseline at the ranks of each kept force net (``baseline@Constant``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_bridge import __version__
from caffe_bridge.bench import compare, to_json
from caffe_bridge.compress import Plan, make_plan, rank_table, rewrite
from caffe_bridge.experiment.recipe import DEPLOY, NET, place_nets, solver_for, test_batches
from caffe_bridge.experiment.spec import Experiment
from caffe_bridge.experiment.stages import Stage
from caffe_bridge.experiment.train import Progress, score, train
from caffe_bridge.files import require_file
from caffe_bridge.graph import read_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export, save
from caffe_bridge.onnx_export.verify import verify
from caffe_bridge.schema import load_weights, save_weights, write_text

Results = dict[str, Any]
_FINETUNED = "finetune"


@dataclass(frozen=True)
class Run:
    """A dense net that is trained on from the baseline; force_decay 0 is the control."""

    name: str
    force_type: str
    force_decay: float
    kept: bool


def runs_of(experiment: Experiment) -> list[Run]:
    """The control and every strength of every sweep."""
    made = [Run("control", "", 0.0, True)]
    for row in experiment.sweep:
        made += [
            Run(f"{row.force_type}_{x:g}", row.force_type, x, x == row.keep)
            for x in row.force_decay
        ]
    return made


def dense_keys(experiment: Experiment) -> list[tuple[str, int]]:
    """(run, seed) of every dense net, in the order in which they are trained."""
    keys = [("baseline", seed) for seed in experiment.seeds]
    for run in runs_of(experiment):
        seeds = experiment.seeds if run.kept else experiment.seeds[:1]
        keys += [(run.name, seed) for seed in seeds]
    return keys


def kept_forces(experiment: Experiment) -> list[Run]:
    """The force runs that are decomposed, one a sweep."""
    return [run for run in runs_of(experiment) if run.kept and run.force_type]


def variants_of(experiment: Experiment) -> list[str]:
    """Names of the low-rank nets."""
    kinds = [run.force_type for run in kept_forces(experiment)]
    return ["baseline", *kinds, *(f"baseline@{kind}" for kind in kinds)]


def key_of(name: str, seed: int) -> str:
    """Name of the stage, and of the folder, of a net and a seed."""
    return f"{name.replace('@', '_at_')}_s{seed}"


class Reproduction:
    """The stages of one experiment; works in the current folder.

    Args:
        experiment: what is run.
        data: folder of the data bases.
        weights: trained baseline of all seeds; "" to train one for each seed.
        device: torch device for training.
        quick: time only briefly.
        progress: told how training goes on.
    """

    def __init__(
        self, experiment: Experiment, data: Path, weights: str, device: str, quick: bool,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.experiment, self.data, self.weights = experiment, data, weights
        self.device, self.quick, self.progress = device, quick, progress
        if weights:
            require_file(weights, "weight")
        self.batches = test_batches(experiment)

    def settings(self) -> dict[str, Any]:
        """What changes the result of every stage."""
        e = self.experiment
        return {
            "version": __version__, "title": e.title, "weights": self.weights,
            "data": str(self.data), "device": self.device, "tests": e.tests,
        }  # fmt: skip

    def stages(self) -> list[Stage]:
        """All stages in order."""
        place_nets(self.experiment, self.data)
        dense = dense_keys(self.experiment)
        keys = tuple(key_of(*key) for key in dense)
        return [
            *self._dense_stages(),
            Stage("ranks", "measure the ranks", self._ranks,
                  {"energy": self.experiment.energy, "layers": self.experiment.layers}, keys),
            *self._lowrank_stages(),
            *self._runtime_stages(),
        ]  # fmt: skip

    def _dense_stages(self) -> Iterator[Stage]:
        e, runs = self.experiment, {run.name: run for run in runs_of(self.experiment)}
        for name, seed in dense_keys(e):
            key = key_of(name, seed)
            if name == "baseline":
                note = {"iterations": 0 if self.weights else e.iterations["baseline"]}
                yield Stage(key, f"baseline, seed {seed}", self._baseline(seed), note, ())
            else:
                yield Stage(
                    key, f"{name}, seed {seed}", self._force(runs[name], seed),
                    {"iterations": e.iterations["force"]}, (key_of("baseline", seed),),
                )  # fmt: skip

    def _baseline(self, seed: int) -> Callable[[Results], Results]:
        def work(_results: Results) -> Results:
            if self.weights:
                accuracy = score(NET, self.weights, self.batches)
                return {"weights": self.weights, "accuracy": accuracy, "iterations": 0,
                        "headline": f"given weights, test accuracy {accuracy:.2%}"}  # fmt: skip
            folder = key_of("baseline", seed)
            solver = solver_for(self.experiment, "baseline", NET, folder, seed)
            return train(folder, folder, solver, "", self.progress, self.device)

        return work

    def _force(self, run: Run, seed: int) -> Callable[[Results], Results]:
        def work(results: Results) -> Results:
            folder = key_of(run.name, seed)
            fields: dict[str, Any] = {"force_decay": run.force_decay}
            if run.force_type:
                fields["force_type"] = run.force_type
            solver = solver_for(self.experiment, "force", NET, folder, seed, **fields)
            start = results[key_of("baseline", seed)]["weights"]
            return train(folder, folder, solver, start, self.progress, self.device)

        return work

    def _ranks(self, results: Results) -> Results:
        tables: Results = {}
        for name, seed in dense_keys(self.experiment):
            key = key_of(name, seed)
            rows = rank_table(NET, results[key]["weights"], self.experiment.energy,
                              layers=self.experiment.layers)  # fmt: skip
            tables[key] = {
                "layers": {row.layer: [row.rank, row.num_output] for row in rows},
                "ratio": sum(row.rank_ratio for row in rows) / len(rows),
            }
        ratios = ", ".join(f"{key} {table['ratio']:.1%}" for key, table in tables.items())
        return {"tables": tables, "headline": f"mean rank ratio: {ratios}"}

    def _lowrank_stages(self) -> Iterator[Stage]:
        e = self.experiment
        kept = [run.name for run in kept_forces(e)]
        note = {"energy": e.energy, "layers": e.layers}
        for seed in e.seeds:
            needs = tuple(key_of(name, seed) for name in ("baseline", *kept))
            made = f"decompose_s{seed}"
            yield Stage(made, f"decompose, seed {seed}", self._decompose(seed), note, needs)
            for name in variants_of(e):
                yield Stage(
                    key_of(f"{_FINETUNED}_{name}", seed), f"fine-tune {name}, seed {seed}",
                    self._finetune(name, seed), {"iterations": e.iterations["finetune"]}, (made,),
                )  # fmt: skip

    def _decompose(self, seed: int) -> Callable[[Results], Results]:
        def work(results: Results) -> Results:
            net = read_net(NET)
            start = load_weights(results[key_of("baseline", seed)]["weights"])
            others = {layer.name for layer in net.layer} - set(self.experiment.layers)
            energy = self.experiment.energy
            made = {}

            def write(name: str, plan: Plan, weights: Any) -> None:
                made[name] = self._write(name, seed, plan, weights)

            write("baseline", make_plan(net, start, energy=energy, except_layers=others), start)
            for run in kept_forces(self.experiment):
                weights = load_weights(results[key_of(run.name, seed)]["weights"])
                plan = make_plan(net, weights, energy=energy, except_layers=others)
                write(run.force_type, plan, weights)
                ranks = {entry.layer: entry.rank for entry in plan.decomposed()}
                write(f"baseline@{run.force_type}", make_plan(net, start, config=ranks), start)
            text = ", ".join(f"{n} {m['accuracy']:.2%}" for n, m in made.items())
            return {"nets": made, "headline": f"accuracy before fine-tuning: {text}"}

        return work

    def _write(self, name: str, seed: int, plan: Plan, weights: Any) -> Results:
        folder = Path(key_of(f"{_FINETUNED}_{name}", seed))
        folder.mkdir(parents=True, exist_ok=True)
        plan.save(folder / "plan.json")
        lowrank, blobs = rewrite(read_net(NET), weights, plan)
        write_text(lowrank, folder / NET)
        stored = lowrank.copy()
        unique = {layer.name: layer for layer in reversed(lowrank.layer)}
        stored.layer = [layer for layer in lowrank.layer if unique[layer.name] is layer]
        start = folder / "lowrank.caffemodel"
        save_weights(start, stored, {k: list(v) for k, v in blobs.items()})
        write_text(rewrite(read_net(DEPLOY), weights, plan)[0], folder / DEPLOY)
        return {
            "ranks": {entry.layer: entry.rank for entry in plan.decomposed()},
            "folder": str(folder),
            "weights": str(start),
            "parameters": sum(array.size for arrays in blobs.values() for array in arrays),
            "accuracy": score(folder / NET, start, self.batches),
        }

    def _finetune(self, name: str, seed: int) -> Callable[[Results], Results]:
        def work(results: Results) -> Results:
            start = results[f"decompose_s{seed}"]["nets"][name]
            folder = start["folder"]
            solver = solver_for(self.experiment, "finetune", f"{folder}/{NET}", folder, seed)
            return train(folder, folder, solver, start["weights"], self.progress, self.device)

        return work

    def _runtime_stages(self) -> Iterator[Stage]:
        seed = self.experiment.seeds[0]
        needs = [key_of("baseline", seed)]
        needs += [key_of(f"{_FINETUNED}_{name}", seed) for name in variants_of(self.experiment)]
        yield Stage("onnx", "export to ONNX and verify", self._onnx, {}, tuple(needs))
        note = {**self.experiment.bench, "quick": self.quick}
        yield Stage("bench", "time in onnxruntime", self._bench, note, ("onnx",))

    def _onnx(self, results: Results) -> Results:
        seed = self.experiment.seeds[0]
        Path("onnx").mkdir(exist_ok=True)
        files = {"dense": (DEPLOY, results[key_of("baseline", seed)]["weights"])}
        for name in variants_of(self.experiment):
            tuned = results[key_of(f"{_FINETUNED}_{name}", seed)]
            folder = results[f"decompose_s{seed}"]["nets"][name]["folder"]
            files[name.replace("@", "_at_")] = (f"{folder}/{DEPLOY}", tuned["weights"])
        made: Results = {}
        for name, (net, weights) in files.items():
            model = Net(net, "TEST", weights=weights)
            check = verify(model, seed=seed)
            check.require(name)
            path = save(export(model), f"onnx/{name}.onnx")
            made[name] = {"path": str(path), "bytes": path.stat().st_size, "worst": check.worst}
        worst = max(entry["worst"] for entry in made.values())
        return {"models": made, "headline": f"{len(made)} models, worst difference {worst:.1g}"}

    def _bench(self, results: Results) -> Results:
        paths = [entry["path"] for entry in results["onnx"]["models"].values()]
        bench = self.experiment.bench
        measured = compare(paths, batch=bench["batch"], threads=bench["threads"], quick=self.quick,
                           seed=self.experiment.seeds[0])  # fmt: skip
        text = ", ".join(f"{m.name} {m.stats.median_ms:.2f} ms" for m in measured.models)
        return {"bench": json.loads(to_json(measured)), "headline": text}
