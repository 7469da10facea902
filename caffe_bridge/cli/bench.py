"""``caffe-bridge bench``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import check_output, console, json_option, require_onnx, verb


@verb("caffe-bridge bench net.onnx lowrank/lowrank.onnx --batch 10 --threads 1")
@click.argument("models", nargs=-1, required=True)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True,
              help="Images of one run.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True,
              help="Threads of one operator.")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Seed of the inputs.")
@click.option("--quick", is_flag=True, help="A short measurement.")
@click.option("--layers/--no-layers", default=True, show_default=True, help="Time by layer too.")
@click.option("--save", "save_path", help="Write the result as JSON to this file.")
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@json_option
def command(
    models: tuple[str, ...], batch: int, threads: int, device: str, seed: int, quick: bool,
    layers: bool, save_path: str | None, markdown: bool, as_json: bool,
) -> None:  # fmt: skip
    """Time MODELS (ONNX files) against the first of them, interleaved in one run."""
    from caffe_bridge.bench.compare import compare
    from caffe_bridge.bench.report import (
        conditions,
        layer_table,
        model_table,
        to_json,
        to_markdown,
    )

    if save_path:
        check_output(save_path, *models)
    for model in models:
        require_onnx(model)
    result = compare(models, batch=batch, threads=threads, device=device, seed=seed, quick=quick,
                     per_layer=layers)  # fmt: skip
    text = to_json(result, save_path) if save_path else to_json(result)
    if as_json:
        click.echo(text)
        return
    if markdown:
        click.echo(to_markdown(result))
        return
    out = console()
    out.print(model_table(result))
    if result.layers:
        out.print(layer_table(result))
    out.print(conditions(result))
