"""``caffe-bridge ranks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.table import Table

from caffe_bridge.cli.common import (
    check_output,
    console,
    floor_option,
    json_option,
    least_rank,
    print_json,
    verb,
)
from caffe_bridge.cli.decompose import METHODS, RULES
from caffe_bridge.errors import PlanError

if TYPE_CHECKING:
    from caffe_bridge.compress import RankRow


@verb(
    """caffe-bridge ranks train_test.prototxt net.caffemodel --energy 0.95
    caffe-bridge ranks deploy.prototxt net.caffemodel --fc --plot ranks.svg"""
)
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
@floor_option
@click.option("--plot", metavar="SVG|PNG|PDF", help="Draw rank bars and eigenvalue spectra.")
@json_option
def command(
    net: str, weights: str, energy: float, layers: tuple[str, ...], fc: bool, rule: str,
    method: str, floor: str | None, plot: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Show at which rank each layer of NET keeps the given energy."""
    from caffe_bridge.compress import rank_table

    if plot:
        from caffe_bridge.compress.pictures import check_picture

        check_output(plot, net, weights)
        check_picture(plot)
    rows = rank_table(
        net, weights, energy, list(layers) or None, include_fc=fc, method=method, rule=rule,
        floor=least_rank(floor, rule),
    )  # fmt: skip
    if not rows:
        raise PlanError(
            f"{net}: {weights} has weights for none of its convolutions; use the weights that "
            "belong to this net, or --fc for fully connected layers."
        )
    if plot:
        _draw(plot, net, weights, rows, method, f"ranks at {rule} {energy:g}")
    if as_json:
        print_json([{**asdict(row), "rank_ratio": row.rank_ratio} for row in rows])
        return
    table = Table(title=f"ranks at {rule} {energy:g}", box=None)
    both = rule in ("energy", "norm")
    names = ["layer", "rank", "of", "ratio", "energy", "norm", "relative error", "theoretical x"]
    for name in [*names, *((f"by energy {energy:g}", f"by norm {energy:g}") if both else ())]:
        table.add_column(name, justify="left" if name == "layer" else "right")
    for row in rows:
        other = (str(row.rank_energy), str(row.rank_norm)) if both else ()
        table.add_row(
            row.layer, str(row.rank), str(row.full), f"{row.rank_ratio:.1%}",
            f"{row.energy:.4f}", f"{row.norm:.4f}", f"{row.error:.4f}",
            f"{row.theoretical_speedup:.2f}", *other,
        )  # fmt: skip
    out = console()
    out.print(table)
    mean = sum(row.rank_ratio for row in rows) / len(rows)
    out.print(f"mean rank ratio {mean:.1%} over {len(rows)} layers")
    if both:
        out.print(
            f"by energy: the reference's rule for PCA, {energy:g} of the squared norm; by norm: "
            f"its rule for SVD, {energy:g} of the norm, which is {energy**2:.4g} of the energy"
        )
    if plot:
        out.print(plot)


def _draw(
    plot: str, net: str, weights: str, rows: Sequence[RankRow], method: str, title: str
) -> None:
    from caffe_bridge.compress import decomposition
    from caffe_bridge.compress.pictures import draw_ranks
    from caffe_bridge.compress.target import Target, as_record, as_weights, find_targets

    found = find_targets(as_record(net), as_weights(weights))
    # The two sides of tucker are those of these two.
    sides = ("weight_svd", "pca") if method == "tucker" else (method,)
    spectra = {
        name: [
            values
            for side in sides
            for values in decomposition(side).spectrum(target.blob, target.group)
        ]
        for name, target in found.items()
        if isinstance(target, Target) and name in {row.layer for row in rows}
    }
    draw_ranks(plot, rows, spectra, title)
