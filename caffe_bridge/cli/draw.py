"""``caffe-bridge draw``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import check_output, level_option, refuse_given, stage_option, verb


@verb(
    """caffe-bridge draw train_val.prototxt net.svg
    caffe-bridge draw deploy.prototxt net.png --rankdir LR"""
)
@click.argument("net")
@click.argument("target")
@click.option(
    "--rankdir", type=click.Choice(["TB", "BT", "LR", "RL"]), default="TB", show_default=True,
    help="From top to bottom, from left to right, or back.",
)  # fmt: skip
@click.option(
    "--phase", type=click.Choice(["TRAIN", "TEST", "ALL"]), default="TEST", show_default=True,
    help="Phase whose layers are drawn.",
)  # fmt: skip
@click.option(
    "--display-lrm", "--display_lrm", is_flag=True, help="Show lr_mult of layers with weights."
)
@level_option
@stage_option
def command(
    net: str, target: str, rankdir: str, phase: str, display_lrm: bool, level: int,
    stage: tuple[str, ...],
) -> None:  # fmt: skip
    """Draw NET to TARGET: .svg, .png, .pdf, .jpg or .dot."""
    from caffe_bridge.cli.load import load_spec
    from caffe_bridge.pycaffe.draw import draw_net_to_file

    check_output(target, net)
    if phase == "ALL":
        refuse_given("on --phase ALL, which draws every layer", "level", "stage")
    drawn = net if phase == "ALL" else load_spec(net, phase, level, stage)
    draw_net_to_file(drawn, target, rankdir, display_lrm=display_lrm)
    click.echo(target)
