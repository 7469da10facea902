"""``caffe-bridge sparsity``."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table

from caffe_bridge.cli.common import console, json_option, print_json, verb


@verb("caffe-bridge sparsity deploy.prototxt net.caffemodel --threshold 1e-4")
@click.argument("net")
@click.argument("weights")
@click.option("--threshold", default=0.0, show_default=True,
              help="Magnitude up to which a weight counts as zero.")  # fmt: skip
@click.option("--layer", "layers", multiple=True, help="Only this layer; repeatable.")
@json_option
def command(
    net: str, weights: str, threshold: float, layers: tuple[str, ...], as_json: bool
) -> None:
    """Show the shares of zero elements, rows, columns, filters and input channels of NET.

    A filter is zero when its row and its bias are.
    """
    from caffe_bridge.compress.sparse import sparsity_table

    rows = sparsity_table(net, weights, threshold, layers)
    if as_json:
        finite = [row.theoretical_speedup if row.row < 1 and row.column < 1 else None
                  for row in rows]  # fmt: skip
        print_json([{**asdict(row), "theoretical_speedup": x}
                    for row, x in zip(rows, finite, strict=True)])  # fmt: skip
        return
    table = Table(box=None)
    kinds = ("element", "row", "column", "filter", "channel")
    for name in ("layer", "weights", *kinds, "theoretical x"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for row in rows:
        shares = (f"{getattr(row, kind):.1%}" for kind in kinds)
        table.add_row(row.layer, str(row.weights), *shares, f"{row.theoretical_speedup:.2f}")
    out = console()
    out.print(table)
    zeros = sum(row.element * row.weights for row in rows)
    total = sum(row.weights for row in rows)
    out.print(f"{zeros / total:.1%} of {total} weights are zero")
