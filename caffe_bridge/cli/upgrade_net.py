"""``caffe-bridge upgrade-net``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import verb


@verb(
    """caffe-bridge upgrade-net old.prototxt new.prototxt
    caffe-bridge upgrade-net old.caffemodel new.caffemodel"""
)
@click.argument("source")
@click.argument("target")
def command(source: str, target: str) -> None:
    """Bring a net of any age to the current format: prototxt or caffemodel, as SOURCE is."""
    from caffe_bridge.errors import SchemaError
    from caffe_bridge.files import looks_like_text, require_file
    from caffe_bridge.schema import (
        prototxt_kind,
        read_binary,
        read_text,
        unknown_fields,
        upgrade_net,
        write_binary,
        write_text,
    )
    from caffe_bridge.schema.kind import SOLVER

    with require_file(source, "net").open("rb") as stream:
        text = looks_like_text(stream.read(4096))
    if text and prototxt_kind(source) == SOLVER:
        raise SchemaError(f"{source}: is a solver; use upgrade-solver, or give a net.")
    if text:
        net = upgrade_net(read_text(source, "NetParameter"))
        write_text(net, target)
    else:
        net = upgrade_net(read_binary(source, "NetParameter"))
        write_binary(net, target)
    for path, line in unknown_fields(net):
        click.echo(f"unknown field kept: {path}{f' (line {line})' if line else ''}", err=True)
    click.echo(f"{target}: {len(net.layer)} layers")
