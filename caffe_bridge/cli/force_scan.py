"""``caffe-bridge force-scan``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.table import Table

from caffe_bridge.cli.common import console, json_option, print_json, verb, warn

if TYPE_CHECKING:
    from caffe_bridge.schema import Record
    from caffe_bridge.solver.force_scan import Scan


def _solver_of(path: str) -> Record | None:
    """The solver's parameters if the file is a solver prototxt, None for a net."""
    from caffe_bridge.schema import read_text
    from caffe_bridge.solver import read_solver

    record = read_text(path, "SolverParameter")
    if any(found.name in ("layer", "layers") for found in record.unknown):
        return None
    return read_solver(path)


def _tables(scan: Scan) -> tuple[Table, Table]:
    from caffe_bridge.solver.force_scan import SHARES, TYPES

    layers = Table(title="force / gradient at force_decay 1", box=None)
    for name in ("layer", "filters", "weight norm", "gradient norm", *TYPES):
        layers.add_column(name, justify="left" if name == "layer" else "right")
    for row in scan.rows:
        ratios = (f"{row.ratio(kind):.3g}" for kind in TYPES)
        layers.add_row(row.layer, str(row.filters), f"{row.weight:.3g}", f"{row.gradient:.3g}",
                       *ratios)  # fmt: skip
    proposed = Table(title="proposed force_decay", box=None)
    proposed.add_column("force_type")
    for name, share in SHARES.items():
        proposed.add_column(f"{name} ({share:.1%})", justify="right")
    for kind, found in scan.proposals().items():
        proposed.add_row(kind, *(f"{value:.2g}" for value in found.values()))
    return layers, proposed


@verb(
    """caffe-bridge force-scan solvers/lenet/solver_force.prototxt net.caffemodel
    caffe-bridge force-scan train_test.prototxt net.caffemodel --batches 100 --json"""
)
@click.argument("net")
@click.argument("weights")
@click.option("--batches", type=click.IntRange(1), default=20, show_default=True,
              help="Batches of training data.")  # fmt: skip
@click.option("--seed", default=1, show_default=True, help="Seed of crops, mirroring, dropout.")
@click.option("--channels-last", is_flag=True, help="Keep images as NHWC in memory.")
@json_option
def command(
    net: str, weights: str, batches: int, seed: int, channels_last: bool, as_json: bool
) -> None:
    """Propose values of force_decay for NET, a training net or a solver prototxt.

    Runs batches of the training data without changing a weight, and compares the norm of each
    force type with that of the gradient (with a solver: and its weight decay) layer by layer.
    """
    import torch

    from caffe_bridge.graph import load_net
    from caffe_bridge.net import Runtime, RuntimeNet
    from caffe_bridge.solver.force_scan import scan_forces
    from caffe_bridge.solver.nets import train_spec

    solver = _solver_of(net)
    torch.manual_seed(seed)
    runtime = Runtime(channels_last=channels_last)
    model = RuntimeNet(load_net(net, "TRAIN") if solver is None else train_spec(solver), runtime)
    for index, layer in enumerate(model.built.layers):
        start = getattr(layer, "seed", None)
        if callable(start):
            start(seed + index)
    missing = model.load(weights)
    if missing:
        warn(f"{weights}: has no weights for {', '.join(missing)}; their fillers stay.")
    decay = float(solver.weight_decay) if solver is not None else 0.0
    groups = bool(solver.force_groups) if solver is not None else False
    scan = scan_forces(model, batches, decay, groups)
    if scan.still:
        warn(f"{net}: no gradient above zero reaches {', '.join(scan.still)}; left out.")
    if as_json:
        print_json(scan.as_dict())
        return
    if scan.assumed:
        warn(f"{net}: no layer has a force_mult; all convolutions were taken.")
    out = console()
    for table in _tables(scan):
        out.print(table)
    out.print(
        f"Mean of {scan.batches} batches. With a proposed strength the force has that share of the "
        "gradient's norm in the middle layer."
    )
