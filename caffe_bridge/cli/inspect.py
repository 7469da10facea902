"""``caffe-bridge inspect``."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table

from caffe_bridge.cli.common import (
    console,
    human,
    input_option,
    json_option,
    level_option,
    parse_shapes,
    phase_option,
    print_json,
    stage_option,
    verb,
)


@verb("caffe-bridge inspect solvers/alexnet/deploy.prototxt")
@click.argument("net")
@phase_option
@level_option
@stage_option
@input_option
@json_option
def command(
    net: str, phase: str, level: int, stage: tuple[str, ...], inputs: tuple[str, ...], as_json: bool
) -> int:
    """Describe NET layer by layer, before anything is converted.

    Exit status 1 when a layer is not supported.
    """
    from caffe_bridge.cli.load import load_spec
    from caffe_bridge.net.inspect import NO_SHAPES, inspect

    report = inspect(load_spec(net, phase, level, stage, parse_shapes(inputs)))
    if as_json:
        print_json({**asdict(report), "supported": report.supported})
        return 0 if report.supported else 1
    statuses = {"": "ok", NO_SHAPES: "no shape"}
    table = Table(title=report.name or net, box=None)
    for name in ("layer", "type", "tops", "shape", "parameters", "MACs", "status"):
        table.add_column(name, justify="right" if name in ("parameters", "MACs") else "left")
    for layer in report.layers:
        shapes = " ".join("x".join(map(str, s)) for s in layer.shapes)
        table.add_row(
            layer.name, layer.type, " ".join(layer.tops), shapes, human(layer.parameters),
            human(layer.macs), statuses.get(layer.problem, "refused"),
        )  # fmt: skip
    out = console()
    out.print(table)
    total = sum(layer.parameters for layer in report.layers)
    macs = sum(layer.macs or 0 for layer in report.layers)
    out.print(f"{len(report.layers)} layers, {total:,} parameters, {macs:,} MACs")
    refused = [x.problem for x in report.layers if x.problem not in ("", NO_SHAPES)]
    for problem in [*report.problems, *refused]:
        click.echo(f"problem: {problem}")
    for path, line in report.unknown:
        click.echo(f"unknown field kept: {path}{f' (line {line})' if line else ''}")
    return 0 if report.supported else 1
