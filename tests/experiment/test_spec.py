"""What an experiment file may hold, and what is told when it holds something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caffe_bridge.errors import SchemaError
from caffe_bridge.experiment.spec import load_experiment
from caffe_bridge.graph import read_net
from tests.experiment.digits import ONE, write_recipes
from tests.shared import REPO


def test_a_profile_that_the_file_lacks_is_told() -> None:
    with pytest.raises(SchemaError, match=r"lenet.*has no profile cpu-conv3; take cpu or gpu"):
        load_experiment(REPO / "solvers" / "lenet" / "experiment.json", "cpu-conv3")


def test_profiles_replace_entries(tmp_path: Path) -> None:
    write_recipes(tmp_path, profiles={"gpu": {"tests": 1}, "cpu": {"channels_last": True}})
    path = tmp_path / "lenet" / "experiment.json"
    cpu, gpu = load_experiment(path, "cpu"), load_experiment(path, "gpu")
    assert (cpu.tests, gpu.tests) == (2, 1)
    assert (cpu.channels_last, gpu.channels_last) == (True, False)


@pytest.mark.parametrize("name", ["lenet", "cifar10_full", "cifar10_resnet20"])
def test_the_shipped_experiments_are_sound(name: str) -> None:
    more = ("cpu-conv3",) if name == "cifar10_full" else ()
    for profile in ("cpu", "gpu", *more):
        made = load_experiment(REPO / "solvers" / name / "experiment.json", profile)
        net = read_net(REPO / "solvers" / name / made.net)
        assert set(made.layers) <= {layer.name for layer in net.layer}
        steps = made.schedule.get("force", {}).get("stepvalue", [0])
        assert max(steps) < made.iterations["force"]


@pytest.mark.parametrize(
    ("entry", "told"),
    [({"threshold": 0.1}, "KeyError: 'solver'"),
     ({"solver": {}, "threshold": 1, "share": 1}, "the entry share"),
     ({"solver": {"breadth": 1}, "threshold": 1}, "'breadth', which no solver has"),
     ({"solver": {"breadth_decay": "much"}, "threshold": 1}, "'much', which is of the wrong kind"),
     ({"solver": {"stepvalue": 3}, "threshold": 1}, "3, which is of the wrong kind")],
)  # fmt: skip
def test_a_wrong_sparse_entry_is_told(tmp_path: Path, entry: dict[str, Any], told: str) -> None:
    write_recipes(tmp_path, sparse=entry)
    with pytest.raises(SchemaError, match=told):
        load_experiment(tmp_path / "lenet" / "experiment.json")


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"sweep": [{**ONE[0], "name": "control"}]}, "cannot have the name control"),
     ({"sweep": [{**ONE[0], "solvers": {}}]}, "the entry solvers"),
     ({"sweep": [{**ONE[0], "force_decay": [1e-3, 1.0000001e-3]}]}, "a strength twice"),
     ({"sweep": [{**ONE[0], "force_decay": [1e-3, float("nan")]}]}, "not finite"),
     ({"seeds": [1, 1]}, "seeds must differ"),
     ({"layers": "conv1"}, "no list of names"),
     ({"profiles": [{}]}, "profiles wants"),
     ({"sweep": [{**ONE[0], "force_mult": {"conv1": -1}}]}, "force_mult that is negative"),
     ({"paper_ranks": {"full": [20, 50]}}, "at least one net"),
     ({"sweep": [{**ONE[0], "keep": None}]}, "keeps a strength")],
)  # fmt: skip
def test_a_wrong_experiment_is_told(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    write_recipes(tmp_path, **changed)
    with pytest.raises(SchemaError, match=told):
        load_experiment(tmp_path / "lenet" / "experiment.json")


def test_a_profile_may_have_any_name(tmp_path: Path) -> None:
    write_recipes(tmp_path, profiles={"brief": {"tests": 1}})
    path = tmp_path / "lenet" / "experiment.json"
    assert load_experiment(path, "brief").tests == 1
    with pytest.raises(SchemaError, match="no profile long; take cpu or gpu or brief"):
        load_experiment(path, "long")
