"""A recipe's files in an experiment's folder: nets with the user's data, solvers of a length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caffe_bridge.errors import DataError, SchemaError
from caffe_bridge.experiment.adapt import spatial_layers, training_net
from caffe_bridge.experiment.spec import Experiment
from caffe_bridge.graph import read_net
from caffe_bridge.schema import Record, parse_text, upgrade_solver, write_text

NET, DEPLOY = "train_test.prototxt", "deploy.prototxt"
#: Losses kept of a training, and of these how many lie between two snapshots.
POINTS, BETWEEN = 100, 10


def place_nets(experiment: Experiment, data: Path, deploy: str = "") -> None:
    """Write the recipe's nets here, their data sources and mean files found in ``data``.

    Args:
        experiment: names the nets.
        data: folder of the data bases.
        deploy: a deploy net to take instead of the recipe's, with the recipe's data and losses.

    Raises:
        DataError: a source or mean file is not there.
        SchemaError: the deploy net does not fit the recipe.
    """
    recipe = Path(experiment.folder)
    net = read_net(recipe / experiment.net).copy()
    for layer in net.layer:
        if layer.has("data_param"):
            layer.data_param.source = _found(layer.data_param.source, data, layer.name)
            if experiment.batch and _only_train(layer):
                layer.data_param.batch_size = experiment.batch
        if layer.has("transform_param") and layer.transform_param.has("mean_file"):
            mean = layer.transform_param.mean_file
            layer.transform_param.mean_file = _found(mean, data, layer.name)
    used = read_net(deploy or recipe / experiment.deploy)
    write_text(training_net(net, used) if deploy else net, NET)
    write_text(used, DEPLOY)


def _only_train(layer: Record) -> bool:
    return any(rule.phase == "TRAIN" for rule in layer.include)


def _found(named: str, data: Path, layer: str) -> str:
    name = Path(named).name
    # 'caffe-bridge dataset cifar10' names the mean file as Caffe's script does.
    other = "mean.binaryproto" if name == "cifar10_mean.binaryproto" else name
    for path in (data / name, data / other):
        if path.exists():
            return str(path.resolve())
    raise DataError(
        f"layer '{layer}': {data / name} does not exist; make it with 'caffe-bridge dataset' and "
        "give its folder with --data."
    )


def net_for(kind: str, force_mult: dict[str, float]) -> str:
    """The placed net, or a copy whose layers have other force multipliers.

    Args:
        kind: name of the sweep, part of the copy's name.
        force_mult: multiplier of the weight by layer; the net itself is taken when empty.

    Raises:
        SchemaError: the net has no such layer, or one without a param.
    """
    if not force_mult:
        return NET
    net = read_net(NET).copy()
    for name, value in force_mult.items():
        found = [layer for layer in net.layer if layer.name == name and layer.param]
        if not found:
            raise SchemaError(
                f"sweep {kind}: force_mult names '{name}', which is no layer of the net with a "
                "param; correct the experiment."
            )
        found[0].param[0].force_mult = value
    path = f"{Path(NET).stem}_{kind}.prototxt"
    write_text(net, path)
    return path


def layers_of(experiment: Experiment, other: bool = False) -> tuple[str, ...]:
    """The layers whose ranks count.

    Those of the file; every convolution of the placed net where the file names none; and every one
    with a kernel above 1 where the placed net is another one with other names.

    Args:
        experiment: names the layers.
        other: whether the placed net is not the recipe's.

    Raises:
        SchemaError: the recipe's net has no such layer.
    """
    net = read_net(NET)
    names = {layer.name for layer in net.layer}
    if not experiment.layers:
        return tuple(dict.fromkeys(x.name for x in net.layer if x.type == "Convolution"))
    missing = sorted(set(experiment.layers) - names)
    if missing and not other:
        raise SchemaError(
            f"{Path(experiment.folder) / experiment.net}: has no layer {', '.join(missing)}; "
            "correct 'layers' of the experiment."
        )
    return spatial_layers(net) if missing else experiment.layers


def _read_solver(experiment: Experiment, part: str) -> Record:
    path = Path(experiment.folder) / experiment.solvers[part]
    text = path.read_text(encoding="utf-8")
    return upgrade_solver(parse_text(text, "SolverParameter", str(path))).copy()


def solver_for(
    experiment: Experiment, part: str, net: str, folder: str, seed: int, **force: Any
) -> Record:
    """The recipe's solver of a part, with its schedule stretched to the experiment's length.

    Args:
        experiment: names the solver file, the fields that replace its own, and the length.
        part: baseline, force or finetune.
        net: what it trains.
        folder: where the snapshots go.
        seed: random_seed.
        force: fields that replace all others.

    Steps (stepvalue, stepsize, force_iter) scale with the length. The rate of the ``inv`` policy
    does not: its gamma is divided by the factor, so the curve is the same.
    """
    solver = _read_solver(experiment, part)
    length, given = experiment.iterations[part], experiment.schedule.get(part, {})
    of_file, of_experiment = max(1, int(solver.max_iter)), experiment.full[part]
    for name, value in {**given, **force}.items():
        setattr(solver, name, value)

    def factor(name: str) -> float:
        return length / (of_experiment if name in {**given, **force} else of_file)

    def step(name: str, value: float) -> int:
        return max(1, round(value * factor(name)))

    solver.stepvalue = [step("stepvalue", value) for value in solver.stepvalue]
    for name in ("stepsize", "force_iter"):
        if solver.has(name) and getattr(solver, name) > 0:
            setattr(solver, name, step(name, getattr(solver, name)))
    if solver.lr_policy == "inv":
        solver.gamma = solver.gamma / factor("gamma")
    solver.net, solver.max_iter, solver.random_seed = net, length, seed
    every = max(1, length // POINTS)
    solver.snapshot, solver.snapshot_prefix = every * BETWEEN, f"{folder}/net"
    solver.snapshot_format = "BINARYPROTO"
    solver.test_interval = max(1, length // experiment.tests)
    solver.display = every
    return solver


def test_batches(experiment: Experiment) -> int:
    """Batches of one test, from the baseline's solver."""
    return int(_read_solver(experiment, "baseline").test_iter[0])
