"""The stages of an experiment, from the baseline to timed low-rank ONNX models.

The names of its nets: :mod:`caffe_bridge.experiment.runs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from caffe_bridge import __version__
from caffe_bridge.compress import Plan, make_plan, rank_table
from caffe_bridge.errors import WeightError
from caffe_bridge.experiment.adopt import adopted
from caffe_bridge.experiment.lowrank import write_lowrank
from caffe_bridge.experiment.recipe import (
    DEPLOY,
    NET,
    layers_of,
    net_for,
    place_nets,
    solver_for,
    test_batches,
)
from caffe_bridge.experiment.runs import (
    PASSED_OVER,
    Run,
    dense_keys,
    kept_forces,
    key_of,
    runs_of,
    tuned_key,
    variants_of,
)
from caffe_bridge.experiment.sparse import Sparsifying
from caffe_bridge.experiment.spec import STARTS, Experiment
from caffe_bridge.experiment.stages import Stage
from caffe_bridge.experiment.timing import Timing
from caffe_bridge.experiment.train import Job, score, write_solver
from caffe_bridge.experiment.workers import Trainer
from caffe_bridge.files import require_file
from caffe_bridge.graph import read_net
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, load_weights

Results = dict[str, Any]


class Reproduction:
    """The stages of one experiment; works in the current folder.

    Args:
        experiment: what is run.
        data: folder of the data bases.
        weights: trained baseline of all seeds; "" to train one for each seed.
        deploy: deploy net of these weights, where it is not the recipe's.
        device: torch device for training.
        quick: time only briefly.
        trainer: trains the nets.
        adopt: take over trainings that were run by hand.
    """

    def __init__(
        self, experiment: Experiment, data: Path, weights: str, deploy: str, device: str,
        quick: bool, trainer: Trainer, adopt: bool = False,
    ) -> None:  # fmt: skip
        self.experiment, self.data, self.weights = experiment, data, weights
        self.deploy, self.device, self.quick, self.trainer = deploy, device, quick, trainer
        if weights:
            require_file(weights, "weight")
        self.adopt = adopt
        self.batches = test_batches(experiment)

    def settings(self) -> dict[str, Any]:
        """What changes the result of every stage."""
        e = self.experiment
        made = {
            "version": __version__, "title": e.title, "weights": self.weights,
            "data": str(self.data), "device": self.device, "tests": e.tests,
            "profile": e.profile, "channels_last": e.channels_last,
        }  # fmt: skip
        # Only what is given: stages of runs without them stay valid.
        given = {"deploy": self.deploy, "batch": e.batch}
        return made | {name: value for name, value in given.items() if value}

    def stages(self) -> list[Stage]:
        """All stages in order."""
        place_nets(self.experiment, self.data, self.deploy)
        self.layers = layers_of(self.experiment, bool(self.deploy))
        for run in runs_of(self.experiment):
            net_for(run.kind, run.force_mult)  # here, so that a wrong layer is told at once
        keys = tuple(key_of(*key) for key in dense_keys(self.experiment))
        note = {"energy": self.experiment.energy, "layers": self.layers}
        sparse = Sparsifying(self.experiment, self.layers, self.batches, self.device, self._train)
        timing = Timing(self.experiment, self.layers, self.batches, self.quick, self.device)
        return [
            *self._dense_stages(),
            Stage("ranks", "measure the ranks", self._ranks, note, keys),
            *self._lowrank_stages(),
            *sparse.stages(self._note("finetune")),
            *timing.stages(),
        ]

    def _train(self, solver: Record, weights: str, seed: int) -> Results:
        e = self.experiment
        # Nets that start from the same weights and draw nothing would be equal for all seeds.
        same = seed not in e.trained_seeds or (weights and self.weights)
        job = Job(write_solver(solver), weights, self.device, e.channels_last,
                  passed_over=PASSED_OVER * e.seeds.index(seed) if same else 0)  # fmt: skip
        return self.trainer(job)

    def _note(self, part: str) -> dict[str, Any]:
        e = self.experiment
        return {"iterations": e.iterations[part], "schedule": e.schedule.get(part, {})}

    def _dense_stages(self) -> Iterator[Stage]:
        runs = {run.name: run for run in runs_of(self.experiment)}
        for name, seed in dense_keys(self.experiment):
            key, title = key_of(name, seed), f"{name}, seed {seed}"
            note: dict[str, Any]
            if name == "baseline":
                note = {"iterations": 0} if self.weights else self._note("baseline")
                yield Stage(key, title, self._baseline(seed), note, (), parallel=not self.weights)
            else:
                note = {**self._note("force"), "solver": runs[name].solver}
                if runs[name].force_mult:
                    note["force_mult"] = runs[name].force_mult
                yield Stage(key, title, self._force(runs[name], seed), note,
                            (key_of("baseline", seed),), parallel=True)  # fmt: skip

    def _baseline(self, seed: int) -> Callable[[Results], Results]:
        def work(_results: Results) -> Results:
            if self.weights:
                self._check_weights()
                accuracy = score(NET, self.weights, self.batches, self.device)
                return {"weights": self.weights, "accuracy": accuracy, "iterations": 0,
                        "headline": f"given weights, test accuracy {accuracy:.2%}"}  # fmt: skip
            folder = key_of("baseline", seed)
            return self._train(solver_for(self.experiment, "baseline", NET, folder, seed), "", seed)

        return work

    def _check_weights(self) -> None:
        missing = Net(DEPLOY, "TEST", weights=self.weights).missing
        if missing:
            raise WeightError(
                f"{self.weights}: has no weights for {', '.join(missing[:5])}"
                f"{' and others' if len(missing) > 5 else ''}; give the deploy net that they "
                "belong to with --deploy."
            )

    def _force(self, run: Run, seed: int) -> Callable[[Results], Results]:
        def work(results: Results) -> Results:
            folder = key_of(run.name, seed)
            net = net_for(run.kind, run.force_mult)
            solver = solver_for(self.experiment, "force", net, folder, seed, **run.solver)
            found = adopted(solver) if self.adopt else None
            return found or self._train(solver, results[key_of("baseline", seed)]["weights"], seed)

        return work

    def _ranks(self, results: Results) -> Results:
        tables: Results = {}
        for name, seed in dense_keys(self.experiment):
            key = key_of(name, seed)
            rows = rank_table(NET, results[key]["weights"], self.experiment.energy,
                              layers=self.layers)  # fmt: skip
            tables[key] = {
                "layers": {row.layer: [row.rank, row.num_output] for row in rows},
                "ratio": sum(row.rank_ratio for row in rows) / len(rows),
            }
        ratios = ", ".join(f"{key} {table['ratio']:.1%}" for key, table in tables.items())
        return {"tables": tables, "headline": f"mean rank ratio: {ratios}"}

    def _lowrank_stages(self) -> Iterator[Stage]:
        e = self.experiment
        kept = [run.name for run in kept_forces(e)]
        note = {"energy": e.energy, "layers": self.layers, "recalibrate": e.recalibrate}
        for seed in e.seeds:
            needs = tuple(key_of(name, e.origin_of(seed)) for name in (*STARTS, *kept))
            made = f"decompose_s{seed}"
            yield Stage(made, f"decompose, seed {seed}", self._decompose(seed), note, needs)
            for name in variants_of(e):
                yield Stage(tuned_key(name, seed), f"fine-tune {name}, seed {seed}",
                            self._finetune(name, seed), self._note("finetune"), (made,),
                            parallel=True)  # fmt: skip

    def _decompose(self, seed: int) -> Callable[[Results], Results]:
        def work(results: Results) -> Results:
            net, energy = read_net(NET), self.experiment.energy
            others = {layer.name for layer in net.layer} - set(self.layers)
            origin = self.experiment.origin_of(seed)

            def trained(name: str) -> Any:
                return load_weights(results[key_of(name, origin)]["weights"])

            starts = {name: trained(name) for name in STARTS}
            made: Results = {}

            def write(name: str, plan: Plan, weights: Any) -> None:
                made[name] = write_lowrank(
                    plan, weights, tuned_key(name, seed), self.batches, self.device,
                    self.experiment.recalibrate,
                )  # fmt: skip

            def at_energy(weights: Any) -> Plan:
                return make_plan(net, weights, energy=energy, except_layers=others)

            for name, weights in starts.items():
                write(name, at_energy(weights), weights)
            for run in kept_forces(self.experiment):
                forced = trained(run.name)
                plan = at_energy(forced)
                write(run.kind, plan, forced)
                ranks = {entry.layer: entry.rank for entry in plan.decomposed()}
                for name, weights in starts.items():
                    write(f"{name}@{run.kind}", make_plan(net, weights, config=ranks), weights)
            text = ", ".join(f"{n} {m['accuracy']:.2%}" for n, m in made.items())
            return {"nets": made, "headline": f"accuracy before fine-tuning: {text}"}

        return work

    def _finetune(self, name: str, seed: int) -> Callable[[Results], Results]:
        def work(results: Results) -> Results:
            start = results[f"decompose_s{seed}"]["nets"][name]
            net = f"{start['folder']}/{NET}"
            solver = solver_for(self.experiment, "finetune", net, start["folder"], seed)
            return self._train(solver, start["weights"], seed)

        return work
