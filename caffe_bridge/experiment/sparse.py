"""Sparsified low-rank nets (the paper's Figure 8): group lasso, zeros, fine-tuning with the zeros.

``sparse`` in the experiment file::

    "sparse": {"solver": {"breadth_decay": 0.002, "kernel_shape_decay": 0.002},
               "threshold": 0.003}

``solver`` holds fields of the lasso's solver beside the schedule of the fine-tuning, ``threshold``
is the root mean square up to which rows and columns become zero. Both trainings are as long as the
fine-tuning. The nets: the first kept force and the baseline at its ranks, first seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from caffe_bridge.compress.rewrite import as_weights_of
from caffe_bridge.compress.sparse import Unit, prune, sparsity_table
from caffe_bridge.compress.sparse.shrink import shrink, write_blobs, write_net
from caffe_bridge.compress.target import WeightsLike
from caffe_bridge.experiment.recipe import DEPLOY, NET, solver_for
from caffe_bridge.experiment.runs import kept_forces, key_of, plain, tuned_key
from caffe_bridge.experiment.spec import Experiment
from caffe_bridge.experiment.stages import Stage
from caffe_bridge.experiment.train import score
from caffe_bridge.graph import read_net
from caffe_bridge.schema import Record, write_text

Results = dict[str, Any]
#: Trains a solver from weights with a seed, as :class:`Reproduction` does.
Train = Callable[[Record, str, int], Results]
_FACTORS = ("_lowrank", "_linear")


def sparse_names(experiment: Experiment) -> list[str]:
    """The low-rank nets that are sparsified; none where the file has no ``sparse``."""
    kept = kept_forces(experiment)
    return [f"baseline@{kept[0].kind}", kept[0].kind] if experiment.sparse and kept else []


def sparse_key(name: str, seed: int) -> str:
    """Name of the stage, and of the folder, of a sparsified net."""
    return key_of(f"sparse_{name}", seed)


def _lasso_key(name: str, seed: int) -> str:
    return key_of(f"lasso_{name}", seed)


def with_lasso(net: Record, layers: tuple[str, ...]) -> tuple[Record, list[str]]:
    """A low-rank net with lasso multipliers on the factors of these layers; and their names."""
    wanted = {name + end for name in layers for end in _FACTORS}
    made = net.copy()
    found = [layer for layer in made.layer if layer.name in wanted]
    for layer in found:
        layer.param[0].breadth_decay_mult = 1
        layer.param[0].kernel_shape_decay_mult = 1
    return made, list(dict.fromkeys(layer.name for layer in found))


class Sparsifying:
    """Two stages for each net: the lasso, then the zeros and fine-tuning with them.

    Args:
        experiment: what is run.
        layers: the decomposed layers of the dense net.
        batches: batches of one test.
        device: where nets are scored.
        train: trains one net.
    """

    def __init__(
        self, experiment: Experiment, layers: tuple[str, ...], batches: int, device: str,
        train: Train,
    ) -> None:  # fmt: skip
        self.experiment, self.layers = experiment, layers
        self.batches, self.device, self.train = batches, device, train
        self.seed = experiment.seeds[0]

    def stages(self, note: dict[str, Any]) -> Iterator[Stage]:
        """The stages; ``note`` is what the fine-tuning depends on."""
        note = {**note, **self.experiment.sparse}
        for name in sparse_names(self.experiment):
            lasso, tuned = _lasso_key(name, self.seed), tuned_key(name, self.seed)
            needs = (f"decompose_s{self.seed}", tuned)
            yield Stage(lasso, f"group lasso, {name}", self._lasso(name), note, needs,
                        parallel=True)  # fmt: skip
            yield Stage(sparse_key(name, self.seed), f"zeros of {name}, fine-tune",
                        self._zeros(name), note, (*needs, lasso), parallel=True)  # fmt: skip

    def _start(self, results: Results, name: str) -> tuple[str, str]:
        """Folder and weights of the fine-tuned low-rank net."""
        folder = results[f"decompose_s{self.seed}"]["nets"][name]["folder"]
        return folder, results[tuned_key(name, self.seed)]["weights"]

    def _lasso(self, name: str) -> Callable[[Results], Results]:
        def work(results: Results) -> Results:
            source, weights = self._start(results, name)
            folder = _lasso_key(name, self.seed)
            Path(folder).mkdir(exist_ok=True)
            net, factors = with_lasso(read_net(f"{source}/{NET}"), self.layers)
            write_text(net, f"{folder}/{NET}")
            solver = solver_for(self.experiment, "finetune", f"{folder}/{NET}", folder, self.seed,
                                **self.experiment.sparse["solver"])  # fmt: skip
            return {**self.train(solver, weights, self.seed), "factors": factors}

        return work

    def _pruned(self, net: Record, weights: WeightsLike, factors: list[str]) -> Any:
        """Blobs with zero rows and columns up to the threshold."""
        for unit in ("row", "column"):
            made = prune(net, weights, Unit(unit), layers=factors,
                         threshold=self.experiment.sparse["threshold"])  # fmt: skip
            weights = as_weights_of(made.blobs)
        return made.blobs

    def _zeros(self, name: str) -> Callable[[Results], Results]:
        def work(results: Results) -> Results:
            source, _ = self._start(results, name)
            before = results[_lasso_key(name, self.seed)]
            folder = Path(sparse_key(name, self.seed))
            folder.mkdir(exist_ok=True)
            net = read_net(f"{source}/{NET}")
            masked = folder / "masked.caffemodel"
            write_blobs(net, self._pruned(net, before["weights"], before["factors"]), masked)
            solver = solver_for(self.experiment, "finetune", f"{source}/{NET}", str(folder),
                                self.seed, keep_zeros=True)  # fmt: skip
            made = self.train(solver, str(masked), self.seed)
            smaller = shrink(read_net(f"{source}/{DEPLOY}"), made["weights"])
            files = write_net(smaller.net, smaller.blobs, folder / DEPLOY,
                              folder / "shrunk.caffemodel")  # fmt: skip
            rows = sparsity_table(net, made["weights"], layers=before["factors"])
            return {
                **made, "lasso": before["accuracy"],
                "pruned": score(f"{source}/{NET}", masked, self.batches, self.device),
                "rows": [asdict(row) for row in rows], "size": list(smaller.weights),
                "deploy": str(files[0]), "shrunk": str(files[1]), "worst": smaller.worst,
            }  # fmt: skip

        return work


def sparse_files(results: Results, experiment: Experiment) -> dict[str, tuple[str, str]]:
    """Deploy net and weights, zeros taken out, of every sparsified net."""
    seed = experiment.seeds[0]
    found = {name: results[sparse_key(name, seed)] for name in sparse_names(experiment)}
    return {f"{plain(name)}_sparse": (x["deploy"], x["shrunk"]) for name, x in found.items()}
