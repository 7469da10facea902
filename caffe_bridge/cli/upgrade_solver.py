"""``caffe-bridge upgrade-solver``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import verb


@verb("caffe-bridge upgrade-solver old_solver.prototxt solver.prototxt")
@click.argument("source")
@click.argument("target")
def command(source: str, target: str) -> None:
    """Bring a solver prototxt to the current format (``solver_type: ADAM`` to a type string)."""
    from caffe_bridge.errors import SchemaError
    from caffe_bridge.schema import prototxt_kind, read_text, upgrade_solver, write_text
    from caffe_bridge.schema.kind import NET

    if prototxt_kind(source) == NET:
        raise SchemaError(f"{source}: is a net; use upgrade-net, or give a solver prototxt.")
    solver = upgrade_solver(read_text(source, "SolverParameter"))
    write_text(solver, target)
    click.echo(f"{target}: type {solver.type}")
