"""The stages of the demo, from pixels to a timed low-rank ONNX model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from caffe_bridge import __version__
from caffe_bridge.bench.compare import compare
from caffe_bridge.bench.report import to_json
from caffe_bridge.compress import make_plan, rank_table, rewrite
from caffe_bridge.demo.digits import write_digits
from caffe_bridge.experiment.stages import Stage
from caffe_bridge.experiment.train import Job, Progress, score, train, write_solver
from caffe_bridge.graph import read_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export, save
from caffe_bridge.onnx_export.verify import verify
from caffe_bridge.schema import (
    Record,
    load_weights,
    parse_text,
    save_weights,
    write_text,
)

FORCED = ("conv1", "conv2", "conv3")
NETS = ("baseline", "force")


@dataclass(frozen=True)
class Settings:
    """Everything that changes the demo's numbers."""

    seed: int = 1
    base_lr: float = 0.01
    iterations: int = 2000
    force_iterations: int = 4000
    finetune_iterations: int = 1500
    force_type: str = "Degradation"
    force_decay: float = 2.2e-4
    energy: float = 0.95
    batch: int = 64
    threads: int = 1
    quick: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Settings with the version of the package, the key of the stages."""
        return {**asdict(self), "version": __version__}


def _solver(settings: Settings, net: str, prefix: str, iterations: int, **more: Any) -> Record:
    solver = Record(
        "SolverParameter", net=net, test_iter=[5], test_interval=max(1, iterations // 20),
        base_lr=settings.base_lr, lr_policy="multistep", gamma=0.1,
        stepvalue=[iterations * 6 // 10, iterations * 9 // 10], momentum=0.9, weight_decay=5e-4,
        display=max(1, iterations // 20), max_iter=iterations, snapshot_prefix=prefix,
        random_seed=settings.seed, type="SGD", **more,
    )  # fmt: skip
    return solver


class Journey:
    """The demo's stages; each method takes the earlier results and returns its own."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.settings, self.progress = settings, progress

    def stages(self) -> list[Stage]:
        """All stages in order."""
        return [
            Stage("data", "write the digits to LMDB", self.data),
            Stage("baseline", "train the baseline", self.baseline),
            Stage("continued", "train on without force (the control)", self.continued),
            Stage("force", "train on with Force Regularization", self.force),
            Stage("ranks", "measure the ranks", self.ranks),
            Stage("decompose", "decompose both nets at the same energy", self.decompose),
            Stage(
                "finetune_baseline", "fine-tune the low-rank baseline", self._finetune("baseline")
            ),
            Stage("finetune_force", "fine-tune the low-rank force net", self._finetune("force")),
            Stage("onnx", "export to ONNX and verify", self.onnx),
            Stage("bench", "time in onnxruntime", self.bench),
        ]

    def data(self, _results: dict[str, Any]) -> dict[str, Any]:
        """Two LMDBs, the net and its deploy form."""
        Path("data").mkdir(exist_ok=True)
        sizes = write_digits(Path("data"))
        for name in ("train_test.prototxt", "deploy.prototxt"):
            text = resources.files("caffe_bridge.demo").joinpath(name).read_text(encoding="utf-8")
            write_text(parse_text(text, "NetParameter", name), name)
        train, test = sizes["train_lmdb"], sizes["test_lmdb"]
        return {**sizes, "headline": f"{train} digits to train, {test} to test"}

    def _train(self, title: str, folder: str, solver: Record, weights: str) -> dict[str, Any]:
        write_solver(solver)
        return train(Job(folder, weights, title=title), self.progress)

    def baseline(self, _results: dict[str, Any]) -> dict[str, Any]:
        """From the fillers."""
        s = self.settings
        solver = _solver(s, "train_test.prototxt", "baseline/net", s.iterations)
        return self._train("baseline", "baseline", solver, "")

    def continued(self, results: dict[str, Any]) -> dict[str, Any]:
        """As many iterations as the force net, without force: shows what force itself does."""
        s = self.settings
        solver = _solver(s, "train_test.prototxt", "continued/net", s.force_iterations)
        return self._train("continued", "continued", solver, results["baseline"]["weights"])

    def force(self, results: dict[str, Any]) -> dict[str, Any]:
        """From the baseline, with filters attracting each other."""
        s = self.settings
        solver = _solver(
            s, "train_test.prototxt", "force/net", s.force_iterations,
            force_type=s.force_type, force_decay=s.force_decay,
        )  # fmt: skip
        return self._train("force", "force", solver, results["baseline"]["weights"])

    def ranks(self, results: dict[str, Any]) -> dict[str, Any]:
        """Ranks of the forced layers of the three dense nets."""
        tables: dict[str, dict[str, dict[str, Any]]] = {}
        for name in ("baseline", "continued", "force"):
            rows = rank_table("train_test.prototxt", results[name]["weights"], self.settings.energy,
                              layers=FORCED)  # fmt: skip
            tables[name] = {
                row.layer: {"rank": row.rank, "full": row.num_output, "energy": row.energy}
                for row in rows
            }
        mean = {
            name: sum(entry["rank"] for entry in table.values()) / len(table)
            for name, table in tables.items()
        }
        drop = 1 - mean["force"] / mean["baseline"]
        return {
            "tables": tables, "mean": mean, "drop": drop,
            "headline": f"mean rank {mean['baseline']:.1f} -> {mean['force']:.1f} (-{drop:.0%})",
        }  # fmt: skip

    def decompose(self, results: dict[str, Any]) -> dict[str, Any]:
        """The pair form of both nets, chosen by the same energy."""
        made = {}
        for name in NETS:
            folder = Path(f"{name}_lowrank")
            folder.mkdir(exist_ok=True)
            weights = load_weights(results[name]["weights"])
            net = read_net("train_test.prototxt")
            plan = make_plan(net, weights, energy=self.settings.energy)
            plan.save(folder / "plan.json")
            lowrank, blobs = rewrite(net, weights, plan)
            write_text(lowrank, folder / "train_test.prototxt")
            save_weights(
                folder / "lowrank.caffemodel", lowrank, {k: list(v) for k, v in blobs.items()}
            )
            deploy, _ = rewrite(read_net("deploy.prototxt"), weights, plan)
            write_text(deploy, folder / "deploy.prototxt")
            made[name] = {
                "ranks": {entry.layer: entry.rank for entry in plan.decomposed()},
                "whole": {e.layer: e.reason for e in plan.layers if e.whole},
                "accuracy": score(folder / "train_test.prototxt", folder / "lowrank.caffemodel", 5),
            }
        text = ", ".join(f"{n} {m['accuracy']:.2%}" for n, m in made.items())
        return {"nets": made, "headline": f"accuracy before fine-tuning: {text}"}

    def _finetune(self, name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def work(_results: dict[str, Any]) -> dict[str, Any]:
            s, folder = self.settings, f"{name}_lowrank"
            solver = _solver(
                s, f"{folder}/train_test.prototxt", f"{folder}/net", s.finetune_iterations
            )
            return self._train(f"fine-tune {name}", folder, solver, f"{folder}/lowrank.caffemodel")

        return work

    def onnx(self, results: dict[str, Any]) -> dict[str, Any]:
        """Every net in ONNX, compared blob by blob."""
        files = {}
        for name in NETS:
            files[name] = ("deploy.prototxt", results[name]["weights"])
            files[f"{name}_lowrank"] = (
                f"{name}_lowrank/deploy.prototxt", results[f"finetune_{name}"]["weights"],
            )  # fmt: skip
        made: dict[str, dict[str, Any]] = {}
        for name, (net, weights) in files.items():
            model = Net(net, "TEST", weights=weights)
            check = verify(model, batches=(1, 3, self.settings.batch), seed=self.settings.seed)
            check.require(name)
            path = save(export(model), f"{name}/{name}.onnx")
            made[name] = {"path": str(path), "bytes": path.stat().st_size, "worst": check.worst}
        worst = max(entry["worst"] for entry in made.values())
        return {"models": made, "headline": f"{len(made)} models, worst difference {worst:.1g}"}

    def bench(self, results: dict[str, Any]) -> dict[str, Any]:
        """The dense baseline against the low-rank nets, interleaved in one run."""
        models = results["onnx"]["models"]
        names = ["baseline", "baseline_lowrank", "force_lowrank"]
        paths = [models[name]["path"] for name in names]
        s = self.settings
        test = Net("train_test.prototxt", "TEST")
        test.evaluate()
        digits = test.fetch("data")[: s.batch].numpy()
        measured = compare(paths, batch=s.batch, threads=s.threads, seed=s.seed,
                           quick=s.quick, feeds={"data": digits})  # fmt: skip
        to_json(measured, "bench.json")
        return {"file": "bench.json", "headline": _bench_headline(measured)}


def _bench_headline(measured: Any) -> str:
    parts = [f"{m.name} {m.stats.median_ms:.2f} ms" for m in measured.models]
    return ", ".join(parts)
