"""``caffe-bridge draw``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import level_option, phase_option, stage_option, verb


@verb(
    """caffe-bridge draw train_val.prototxt net.svg
    caffe-bridge draw deploy.prototxt net.png --rankdir LR"""
)
@click.argument("net")
@click.argument("target")
@click.option("--rankdir", type=click.Choice(["TB", "LR"]), default="TB", show_default=True,
              help="From top to bottom or from left to right.")  # fmt: skip
@phase_option
@level_option
@stage_option
def command(
    net: str, target: str, rankdir: str, phase: str, level: int, stage: tuple[str, ...]
) -> None:
    """Draw NET to TARGET: .svg, .png, .pdf, .jpg or .dot."""
    from caffe_bridge.cli.load import load_spec
    from caffe_bridge.pycaffe.draw import draw_net_to_file

    draw_net_to_file(load_spec(net, phase, level, stage), target, rankdir)
    click.echo(target)
