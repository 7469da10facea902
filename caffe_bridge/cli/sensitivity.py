"""``caffe-bridge sensitivity``."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from caffe_bridge.cli.common import (
    check_output,
    console,
    json_option,
    parse_floats,
    print_json,
    verb,
)
from caffe_bridge.errors import PlanError


@verb(
    """caffe-bridge sensitivity deploy.prototxt net.caffemodel --data inputs.npz --save scan.json
    caffe-bridge sensitivity train_test.prototxt net.caffemodel --data data --batches 20"""
)
@click.argument("net")
@click.argument("weights")
@click.option(
    "--data",
    required=True,
    metavar="NPZ|data",
    help="Inputs: an npz with an array for each input blob, or the net's own data layers.",
)
@click.option("--batches", default=0, help="How many; 0: all of an npz, 10 of data layers.")
@click.option("--levels", default="0.125,0.25,0.5,0.75", show_default=True,
              help="Shares of each layer's largest rank.")  # fmt: skip
@click.option("--layer", "layers", multiple=True, help="Only this layer; repeatable.")
@click.option("--method", type=click.Choice(["pca", "svd", "weight_svd", "spatial", "spatial_h"]),
              default="pca", show_default=True, help="Decomposition.")  # fmt: skip
@click.option("--fc/--no-fc", default=True, show_default=True, help="Fully connected layers too.")
@click.option("--blob", default="", help="Blob to judge; what the last layer scores by default.")
@click.option("--save", metavar="JSON", help="Store every point there; an earlier scan goes on.")
@click.option("--plot", metavar="SVG|PNG|PDF", help="Draw the curves.")
@json_option
def command(
    net: str, weights: str, data: str, batches: int, levels: str, layers: tuple[str, ...],
    method: str, fc: bool, blob: str, save: str | None, plot: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Show what each layer of NET alone at a lower rank costs the net, on data."""
    from caffe_bridge.compress.calibration import data_feeds, npz_feeds
    from caffe_bridge.compress.pictures import check_picture, draw_scan
    from caffe_bridge.compress.sensitivity import scan_net
    from caffe_bridge.graph import read_net
    from caffe_bridge.net import Net
    from caffe_bridge.schema import load_weights

    for path in (save, plot):
        if path:
            check_output(path, net, weights, *([] if data == "data" else [data]))
    if plot:
        check_picture(plot)
    whole = Net(net, "TEST", weights=weights)
    if blob and blob not in whole.built.graph.blobs():
        raise PlanError(f"{net}: has no blob '{blob}' in its TEST net.")
    feeds = data_feeds(whole, batches or 10) if data == "data" else npz_feeds(whole, data, batches)
    bar = Progress(console=Console(stderr=True), transient=True, disable=as_json)
    with bar:
        task = bar.add_task("scan")
        scan = scan_net(
            read_net(net), load_weights(weights), feeds, levels=parse_floats(levels, "--levels"),
            layers=layers or None, method=method, include_fc=fc, blob=blob, cache=save,
            progress=lambda name, done, total: bar.update(
                task, description=name, completed=done, total=total
            ),
        )  # fmt: skip
    if plot:
        draw_scan(plot, scan)
    if as_json:
        print_json(asdict(scan))
        return
    table = Table(title=f"whole net: {scan.scored} {scan.whole:.2%}", box=None)
    for name in ("layer", "rank", "of", f"error of {scan.blob}", scan.scored):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for point in scan.points:
        table.add_row(
            point.layer, str(point.rank), str(point.most), f"{point.error:.4f}",
            f"{point.score:.2%}",
        )  # fmt: skip
    out = console()
    out.print(table)
    for path in (save, plot):
        if path:
            out.print(path)
