"""A recipe's nets with other force multipliers."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_bridge.errors import SchemaError
from caffe_bridge.experiment.recipe import NET, net_for, place_nets, solver_for
from caffe_bridge.experiment.spec import Experiment, load_experiment
from caffe_bridge.experiment.stages import inside
from caffe_bridge.experiment.train import Job, train, write_solver
from caffe_bridge.graph import read_net
from caffe_bridge.schema import load_weights
from tests.experiment.digits import write_digits, write_recipes


def placed(folder: Path) -> Experiment:
    """The digits' data and the recipe's nets in a folder."""
    (folder / "data").mkdir()
    write_digits(folder / "data")
    write_recipes(folder)
    experiment = load_experiment(folder / "lenet" / "experiment.json")
    with inside(folder):
        place_nets(experiment, Path("data"))
    return experiment


def multipliers(path: str) -> dict[str, float]:
    return {x.name: x.param[0].force_mult for x in read_net(path).layer if x.param}


def test_a_sweep_may_force_some_layers_only(tmp_path: Path) -> None:
    experiment = placed(tmp_path)
    strong = {"force_type": "Constant", "force_decay": 0.05}
    trained = {}
    with inside(tmp_path):
        assert net_for("Constant", {}) == NET
        for kind, mults, force in (
            ("control", {}, {"force_decay": 0.0}),
            ("none", {"conv1": 0.0, "conv2": 0.0}, strong),
            ("second", {"conv1": 0.0}, strong),
        ):
            net = net_for(kind, mults)
            solver = solver_for(experiment, "force", net, kind, 1, **force)
            weights = train(Job(write_solver(solver), ""), lambda *_: None)["weights"]
            blobs = load_weights(weights).blobs
            trained[kind] = [blobs[name][0].array().tobytes() for name in ("conv1", "conv2")]
        assert multipliers(NET) == {"conv1": 1, "conv2": 1, "ip1": 0, "ip2": 0}
        assert multipliers("train_test_second.prototxt") == {
            "conv1": 0, "conv2": 1, "ip1": 0, "ip2": 0,
        }  # fmt: skip
    assert trained["none"] == trained["control"]
    assert trained["second"][1] != trained["control"][1]


def test_a_multiplier_of_no_layer_is_told(tmp_path: Path) -> None:
    placed(tmp_path)
    with inside(tmp_path):
        with pytest.raises(SchemaError, match="sweep Constant: force_mult names 'conv9'"):
            net_for("Constant", {"conv9": 0.0})
        with pytest.raises(SchemaError, match="force_mult names 'pool1'"):
            net_for("Constant", {"pool1": 0.0})
