"""``caffe-bridge time``."""

from __future__ import annotations

from dataclasses import asdict

import click

from caffe_bridge.cli.common import (
    input_option,
    json_option,
    level_option,
    parse_shapes,
    print_json,
    stage_option,
    verb,
)
from caffe_bridge.cli.runtime import Choice, runtime_options


@verb(
    """caffe-bridge time --model deploy.prototxt --iterations 10
    caffe-bridge time --model train_test.prototxt --input data=64,1,28,28 --input label=64"""
)
@click.option("--model", required=True, help="Net prototxt.")
@click.option("--weights", help="Caffemodel; the fillers run without.")
@click.option("--iterations", type=click.IntRange(1), default=50, show_default=True,
              help="Passes to average over.")  # fmt: skip
@click.option(
    "--phase", type=click.Choice(["TRAIN", "TEST"], case_sensitive=False), default="TRAIN",
    show_default=True, help="Phase for which the net is filtered.",
)  # fmt: skip
@level_option
@stage_option
@input_option
@runtime_options
@json_option
def command(
    model: str, weights: str | None, iterations: int, phase: str, level: int,
    stage: tuple[str, ...], inputs: tuple[str, ...], choice: Choice, as_json: bool,
) -> None:  # fmt: skip
    """Time every layer of a net forward and backward."""
    from caffe_bridge.cli.load import load_spec
    from caffe_bridge.net import RuntimeNet
    from caffe_bridge.net.timing import example_feed, time_layers

    if choice.compile or choice.cuda_graph:
        raise click.UsageError("time runs layers one by one; leave --compile, --cuda-graph out.")
    shapes = parse_shapes(inputs)
    net = RuntimeNet(load_spec(model, phase.upper(), level, stage, shapes), choice.runtime())
    if weights:
        net.load(weights)
    found = time_layers(net, example_feed(net), iterations)
    if as_json:
        print_json({**asdict(found), "iterations": iterations})
        return
    click.echo("Average time per layer:")
    for row in found.layers:
        click.echo(f"{row.name:>10}\tforward: {row.forward_ms:g} ms.")
        click.echo(f"{row.name:>10}\tbackward: {row.backward_ms:g} ms.")
    click.echo(f"Average Forward pass: {found.forward_ms:g} ms.")
    click.echo(f"Average Backward pass: {found.backward_ms:g} ms.")
    click.echo(f"Average Forward-Backward: {found.forward_ms + found.backward_ms:g} ms.")
    click.echo(f"Total Time: {found.total_ms:g} ms.")
