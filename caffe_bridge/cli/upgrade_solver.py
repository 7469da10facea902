"""``caffe-bridge upgrade-solver``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import verb


@verb("caffe-bridge upgrade-solver old_solver.prototxt solver.prototxt")
@click.argument("source")
@click.argument("target")
def command(source: str, target: str) -> None:
    """Bring a solver prototxt to the current format (``solver_type: ADAM`` to a type string)."""
    from caffe_bridge.schema import read_text, upgrade_solver, write_text

    solver = upgrade_solver(read_text(source, "SolverParameter"))
    write_text(solver, target)
    click.echo(f"{target}: type {solver.type}")
