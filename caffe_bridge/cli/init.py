"""``caffe-bridge init``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import check_output, json_option, print_json, verb


@verb("caffe-bridge init solvers/alexnet/deploy.prototxt -o alexnet.caffemodel --seed 0")
@click.argument("net")
@click.option("-o", "--output", required=True, help="Weights to write (.caffemodel or .h5).")
@click.option("--seed", default=0, show_default=True, help="Seed of the fillers.")
@json_option
def command(net: str, output: str, seed: int, as_json: bool) -> None:
    """Write random weights made by the fillers of NET."""
    from caffe_bridge.cli.load import load_model

    check_output(output, net)
    model = load_model(net, None, seed=seed)
    path = model.save(output)
    count = sum(blob.value.numel() for blob in model.learnable)
    size = path.stat().st_size
    if as_json:
        print_json({"weights": str(path), "parameters": count, "bytes": size, "seed": seed})
        return
    click.echo(f"{path}: {count:,} parameters, {size:,} bytes, seed {seed}")
