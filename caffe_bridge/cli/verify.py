"""``caffe-bridge verify``."""

from __future__ import annotations

from dataclasses import asdict

import click

from caffe_bridge.cli.common import (
    input_option,
    json_option,
    parse_numbers,
    parse_shapes,
    print_json,
    require_onnx,
    verb,
)


@verb("caffe-bridge verify deploy.prototxt net.caffemodel net.onnx")
@click.argument("net")
@click.argument("weights")
@click.argument("model")
@click.option("--batch", default="1,3", show_default=True, help="Batch sizes to try.")
@click.option("--tolerance", default=1e-4, show_default=True, help="Largest relative difference.")
@click.option("--seed", default=0, show_default=True, help="Seed of the inputs.")
@input_option
@json_option
def command(
    net: str, weights: str, model: str, batch: str, tolerance: float, seed: int,
    inputs: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Compare MODEL (an ONNX file) with NET and WEIGHTS in onnxruntime.

    Exit status 1 when an output differs by more than the tolerance.
    """
    from caffe_bridge.cli.load import load_model
    from caffe_bridge.graph import read_net
    from caffe_bridge.onnx_export.verify import output_names, verify

    sizes = parse_numbers(batch, "--batch")
    path = require_onnx(model)
    blobs = {top for layer in read_net(net).layer for top in layer.top}
    outputs = [name for name in output_names(path) if name in blobs]
    loaded = load_model(net, weights, inputs=parse_shapes(inputs), outputs=outputs)
    done = verify(loaded, path, sizes, seed=seed, tolerance=tolerance)
    if as_json:
        print_json({"passed": done.passed, "worst": done.worst,
                    "differences": [asdict(d) for d in done.differences]})  # fmt: skip
        return 0 if done.passed else 1
    for item in done.differences:
        click.echo(f"{item.blob} at batch {item.batch}: relative {item.relative:.2g}, "
                   f"absolute {item.absolute:.2g}")  # fmt: skip
    click.echo(f"worst output {done.worst:.2g}: {'same' if done.passed else 'DIFFERENT'}")
    return 0 if done.passed else 1
