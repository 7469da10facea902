"""A recipe's files in an experiment's folder: nets with the user's data, solvers of a length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caffe_bridge.errors import DataError
from caffe_bridge.experiment.spec import Experiment
from caffe_bridge.graph import read_net
from caffe_bridge.schema import Record, parse_text, upgrade_solver, write_text

NET, DEPLOY = "train_test.prototxt", "deploy.prototxt"


def place_nets(experiment: Experiment, data: Path) -> None:
    """Write the recipe's nets here, their data sources and mean files found in ``data``.

    Raises:
        DataError: a source or mean file is not there.
    """
    recipe = Path(experiment.folder)
    net = read_net(recipe / experiment.net).copy()
    for layer in net.layer:
        if layer.has("data_param"):
            layer.data_param.source = _found(layer.data_param.source, data, layer.name)
        if layer.has("transform_param") and layer.transform_param.has("mean_file"):
            mean = layer.transform_param.mean_file
            layer.transform_param.mean_file = _found(mean, data, layer.name)
    write_text(net, NET)
    write_text(read_net(recipe / experiment.deploy), DEPLOY)


def _found(named: str, data: Path, layer: str) -> str:
    path = data / Path(named).name
    if not path.exists():
        raise DataError(
            f"layer '{layer}': {path} does not exist; make it with 'caffe-bridge dataset' and give "
            "its folder with --data."
        )
    return str(path.resolve())


def solver_for(
    experiment: Experiment, part: str, net: str, folder: str, seed: int, **force: Any
) -> Record:
    """The recipe's solver of a part, with its schedule stretched to the experiment's length.

    Args:
        experiment: names the solver file and the length.
        part: baseline, force or finetune.
        net: what it trains.
        folder: where the snapshot goes.
        seed: random_seed.
        force: force fields that replace the file's.

    Steps (stepvalue, stepsize, force_iter) scale with the length. The rate of the ``inv`` policy
    does not: its gamma is divided by the factor, so the curve is the same.
    """
    path = Path(experiment.folder) / experiment.solvers[part]
    text = path.read_text(encoding="utf-8")
    solver = upgrade_solver(parse_text(text, "SolverParameter", str(path))).copy()
    length = experiment.iterations[part]
    factor = length / max(1, int(solver.max_iter))
    solver.stepvalue = [max(1, round(value * factor)) for value in solver.stepvalue]
    if solver.has("stepsize"):
        solver.stepsize = max(1, round(solver.stepsize * factor))
    if solver.has("force_iter") and solver.force_iter > 0:
        solver.force_iter = max(1, round(solver.force_iter * factor))
    if solver.lr_policy == "inv":
        solver.gamma = solver.gamma / factor
    solver.net, solver.max_iter, solver.random_seed = net, length, seed
    solver.snapshot, solver.snapshot_prefix = 0, f"{folder}/net"
    solver.snapshot_format = "BINARYPROTO"
    solver.test_interval = max(1, length // experiment.tests)
    solver.display = max(1, length // 100)
    for name, value in force.items():
        setattr(solver, name, value)
    return solver


def test_batches(experiment: Experiment) -> int:
    """Batches of one test, from the baseline's solver."""
    path = Path(experiment.folder) / experiment.solvers["baseline"]
    solver = parse_text(path.read_text(encoding="utf-8"), "SolverParameter", str(path))
    return int(solver.test_iter[0])
