"""``caffe-bridge prune``."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table

from caffe_bridge.cli.common import check_output, console, json_option, print_json, verb

#: Frozen here, so that help needs no import of the package.
UNITS = ("element", "row", "column", "filter", "channel", "block")


@verb(
    """caffe-bridge prune net.prototxt net.caffemodel --unit filter --sparsity 0.5 -o m.caffemodel
    caffe-bridge prune net.prototxt net.caffemodel --threshold 1e-3 -o masked.caffemodel"""
)
@click.argument("net")
@click.argument("weights")
@click.option("-o", "--output", required=True, help="Caffemodel (or .caffemodel.h5) to write.")
@click.option("--unit", type=click.Choice(UNITS), default="element", show_default=True,
              help="What becomes zero together.")  # fmt: skip
@click.option("--sparsity", type=float, help="Share of the units that becomes zero.")
@click.option("--threshold", type=float,
              help="Units whose root mean square is not larger become zero.")  # fmt: skip
@click.option("--block", metavar="RxC", help="Rows by columns of a block.")
@click.option("--layer", "layers", multiple=True, help="Only this layer; repeatable.")
@click.option("--scope", type=click.Choice(["layer", "global"]), default="layer",
              show_default=True, help="Count --sparsity in each layer or in all.")  # fmt: skip
@json_option
def command(
    net: str, weights: str, output: str, unit: str, sparsity: float | None,
    threshold: float | None, block: str | None, layers: tuple[str, ...], scope: str, as_json: bool,
) -> None:  # fmt: skip
    """Set the smallest units of the convolutions and fully connected layers of NET to zero.

    Fine-tune with 'caffe-bridge train --keep-zeros', then take the zeros out with 'shrink'.
    """
    from caffe_bridge.compress.sparse import Unit, prune
    from caffe_bridge.compress.sparse.shrink import write_blobs
    from caffe_bridge.compress.sparse.units import parse_block

    if (sparsity is None) == (threshold is None):
        raise click.UsageError("give either --sparsity or --threshold.")
    if (block is None) == (unit == "block"):
        raise click.UsageError("--unit block and --block RxC go together.")
    check_output(output, net, weights)
    size = parse_block(block) if block else (1, 1)
    made = prune(net, weights, Unit(unit, *size), sparsity, threshold, layers, scope)
    path = write_blobs(made.net, made.blobs, output)
    if as_json:
        print_json({"weights": str(path), "layers": [asdict(row) for row in made.layers]})
        return
    table = Table(box=None)
    for name in ("layer", f"zero {unit}s", "of", "zero weights"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for row in made.layers:
        table.add_row(row.layer, str(row.zeroed), str(row.units), f"{row.sparsity:.1%}")
    out = console()
    out.print(table)
    out.print(f"weights: {path}")
