"""``caffe-bridge inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.table import Table

from caffe_bridge.cli.common import (
    console,
    human,
    import_option,
    input_option,
    json_option,
    level_option,
    parse_shapes,
    phase_option,
    print_json,
    stage_option,
    verb,
)
from caffe_bridge.errors import SchemaError

if TYPE_CHECKING:
    from caffe_bridge.net.inspect import NetReport


@verb("caffe-bridge inspect solvers/alexnet/deploy.prototxt")
@click.argument("net")
@phase_option
@click.option("--all-phases", is_flag=True, help="Inspect the TRAIN and the TEST phase.")
@level_option
@stage_option
@input_option
@import_option
@json_option
def command(
    net: str, phase: str, all_phases: bool, level: int, stage: tuple[str, ...],
    inputs: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Describe NET (or a solver) layer by layer, before anything is converted.

    A layer is exact, approximated or unsupported. A data layer whose source is missing is stood in
    for by a usual shape, or by that of --input-shape. Exit status 1 when a layer is not supported.
    """
    from caffe_bridge.cli.load import load_spec
    from caffe_bridge.net.inspect import inspect
    from caffe_bridge.schema.kind import OTHER, SOLVER, prototxt_kind

    kind = prototxt_kind(net)
    if kind == SOLVER:
        return _solver(net, as_json)
    if kind == OTHER:
        raise SchemaError(f"{net}: describes neither a net nor a solver.")
    shapes = parse_shapes(inputs)
    phases = ("TRAIN", "TEST") if all_phases else (phase,)
    reports = [inspect(load_spec(net, name, level, stage, shapes)) for name in phases]
    if as_json:
        found = [{**asdict(r), "supported": r.supported} for r in reports]
        print_json(found if all_phases else found[0])
    else:
        for report in reports:
            _show(report, report.name or net)
    return 0 if all(report.supported for report in reports) else 1


def _show(report: NetReport, title: str) -> None:
    from caffe_bridge.net.inspect import APPROXIMATED, NO_SHAPES

    table = Table(title=f"{title} ({report.phase})", box=None)
    for name in ("layer", "type", "tops", "shape", "parameters", "MACs", "status"):
        table.add_column(name, justify="right" if name in ("parameters", "MACs") else "left")
    for layer in report.layers:
        shapes = " ".join("x".join(map(str, s)) for s in layer.shapes)
        status = "no shape" if layer.reason == NO_SHAPES else layer.status
        table.add_row(
            layer.name, layer.type, " ".join(layer.tops), shapes,
            human(layer.parameters), human(layer.macs), status,
        )  # fmt: skip
    out = console()
    out.print(table)
    total = sum(layer.parameters for layer in report.layers)
    macs = sum(layer.macs or 0 for layer in report.layers)
    out.print(f"{len(report.layers)} layers, {total:,} parameters, {macs:,} MACs")
    for layer in report.layers:
        if layer.status == APPROXIMATED:
            click.echo(f"approximated: {layer.reason}")
    refused = [layer.reason for layer in report.unsupported if layer.reason != NO_SHAPES]
    _print_rest([*report.problems, *refused], report.unknown)


def _print_rest(problems: Sequence[str], unknown: Sequence[tuple[str, int]]) -> None:
    for problem in problems:
        click.echo(f"problem: {problem}")
    for path, line in unknown:
        click.echo(f"unknown field kept: {path}{f' (line {line})' if line else ''}")


def _solver(path: str, as_json: bool) -> int:
    from caffe_bridge.solver.inspect import inspect_solver

    report = inspect_solver(path)
    if as_json:
        print_json({**asdict(report), "supported": report.supported})
        return 0 if report.supported else 1
    click.echo(f"{path}: solver {report.type}, lr_policy {report.lr_policy}, "
               f"{report.max_iter} iterations")  # fmt: skip
    for net in report.nets:
        click.echo(f"net: {net}{' (no such file)' if net in report.missing else ''}")
    _print_rest(report.problems, report.unknown)
    return 0 if report.supported else 1
