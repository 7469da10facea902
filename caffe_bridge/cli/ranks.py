"""``caffe-bridge ranks``."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table

from caffe_bridge.cli.common import console, json_option, print_json, verb
from caffe_bridge.cli.decompose import METHODS, RULES
from caffe_bridge.errors import PlanError


@verb("caffe-bridge ranks train_test.prototxt net.caffemodel --energy 0.95")
@click.argument("net")
@click.argument("weights")
@click.option(
    "--energy", default=0.95, show_default=True, help="Share of the squared norm to keep."
)
@click.option("--layer", "layers", multiple=True, help="Only this layer; repeatable.")
@click.option("--fc", is_flag=True, help="List fully connected layers too.")
@click.option("--rule", type=click.Choice(RULES), default="energy", show_default=True,
              help="How --energy chooses ranks: by energy, or its square root (norm) as the "
              "reference does for svd, ...")  # fmt: skip
@click.option("--method", type=click.Choice(METHODS), default="pca", show_default=True,
              help="Decomposition whose ranks are shown.")  # fmt: skip
@json_option
def command(
    net: str, weights: str, energy: float, layers: tuple[str, ...], fc: bool, rule: str,
    method: str, as_json: bool,
) -> None:  # fmt: skip
    """Show at which rank each layer of NET keeps the given energy."""
    from caffe_bridge.compress import rank_table

    rows = rank_table(
        net, weights, energy, list(layers) or None, include_fc=fc, method=method, rule=rule
    )
    if not rows:
        raise PlanError(
            f"{net}: {weights} has weights for none of its convolutions; use the weights that "
            "belong to this net, or --fc for fully connected layers."
        )
    if as_json:
        print_json([{**asdict(row), "rank_ratio": row.rank_ratio} for row in rows])
        return
    table = Table(title=f"ranks at {rule} {energy:g}", box=None)
    for name in ("layer", "rank", "of", "ratio", "energy", "relative error", "theoretical x"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for row in rows:
        table.add_row(
            row.layer, str(row.rank), str(row.num_output), f"{row.rank_ratio:.1%}",
            f"{row.energy:.4f}", f"{row.error:.4f}", f"{row.theoretical_speedup:.2f}",
        )  # fmt: skip
    out = console()
    out.print(table)
    mean = sum(row.rank_ratio for row in rows) / len(rows)
    out.print(f"mean rank ratio {mean:.1%} over {len(rows)} layers")
