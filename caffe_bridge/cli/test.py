"""``caffe-bridge test``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import json_option, level_option, print_json, stage_option, verb
from caffe_bridge.cli.runtime import Choice, runtime_options
from caffe_bridge.errors import DataError
from caffe_bridge.log import glog_line, stream_sink


@verb("caffe-bridge test --model train_test.prototxt --weights net.caffemodel --iterations 100")
@click.option("--model", required=True, help="Net prototxt with its test data layer.")
@click.option("--weights", required=True, help="Caffemodel to score.")
@click.option("--iterations", type=click.IntRange(1), default=50, show_default=True,
              help="Batches to run.")  # fmt: skip
@runtime_options
@level_option
@stage_option
@json_option
def command(
    model: str, weights: str, iterations: int, level: int, stage: tuple[str, ...], choice: Choice,
    as_json: bool,
) -> None:  # fmt: skip
    """Run the TEST phase of a net and print the mean of every output."""
    from caffe_bridge.cli.load import load_model
    from caffe_bridge.net import RuntimeNet

    plain = load_model(model, weights, "TEST", level, stage)
    net = RuntimeNet(plain.spec, choice.runtime(), built=plain.built)
    for layer in net.built.layers:
        if layer.is_input and not layer.has_source:
            raise DataError(
                f"{layer.spec.label()}: has no data of its own; test needs a net with a data layer "
                "for the TEST phase, such as train_test.prototxt."
            )
    sums: dict[str, float] = {}
    loss = 0.0
    batch_line = stream_sink()
    for batch in range(iterations):
        loss += net.evaluate()
        for name in net.outputs:
            values = net.fetch(name).reshape(-1).tolist()
            for index, value in enumerate(values):
                key = name if len(values) == 1 else f"{name}[{index}]"
                sums[key] = sums.get(key, 0.0) + value
                if not as_json:
                    batch_line(glog_line(f"Batch {batch}, {name} = {value:g}", "caffe.cpp:313"))
    means = {name: total / iterations for name, total in sums.items()}
    if as_json:
        print_json({"loss": loss / iterations, "outputs": means, "iterations": iterations})
        return
    click.echo(f"Loss: {loss / iterations:g}")
    weights_of = net.built.loss_weights()
    factors = {v.blob: weights_of.get(v.index, 0.0) for v in net.built.graph.outputs}
    for name, value in means.items():
        factor = factors[name.partition("[")[0] if name not in factors else name]
        part = f" (* {factor:g} = {factor * value:g} loss)" if factor else ""
        click.echo(f"{name} = {value:g}{part}")
