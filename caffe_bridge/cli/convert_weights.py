"""``caffe-bridge convert-weights``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import check_output, verb


@verb(
    """caffe-bridge convert-weights net.caffemodel net.caffemodel.h5
    caffe-bridge convert-weights net.caffemodel.h5 net.caffemodel --net train_val.prototxt"""
)
@click.argument("source")
@click.argument("target")
@click.option("--net", help="Prototxt: layer types, their order and shared blobs.")
def command(source: str, target: str, net: str | None) -> None:
    """Rewrite weights: HDF5 when TARGET ends in .h5, else a caffemodel."""
    from caffe_bridge.schema.convert_weights import convert_weights

    check_output(target, source, *filter(None, (net,)))
    path = convert_weights(source, target, net)
    click.echo(f"{path}: {path.stat().st_size:,} bytes")
