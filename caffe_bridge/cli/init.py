"""``caffe-bridge init``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import verb


@verb("caffe-bridge init solvers/alexnet/deploy.prototxt -o alexnet.caffemodel --seed 0")
@click.argument("net")
@click.option("-o", "--output", required=True, help="Weights to write (.caffemodel or .h5).")
@click.option("--seed", default=0, show_default=True, help="Seed of the fillers.")
def command(net: str, output: str, seed: int) -> None:
    """Write random weights made by the fillers of NET."""
    from caffe_bridge.cli.load import load_model

    model = load_model(net, None, seed=seed)
    path = model.save(output)
    count = sum(blob.value.numel() for blob in model.learnable)
    click.echo(f"{path}: {count:,} parameters, {path.stat().st_size:,} bytes, seed {seed}")
