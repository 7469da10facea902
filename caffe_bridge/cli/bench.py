"""``caffe-bridge bench``."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table

from caffe_bridge.cli.common import (
    check_output,
    console,
    json_option,
    print_json,
    require_onnx,
    verb,
)


@verb("caffe-bridge bench net.onnx lowrank/lowrank.onnx --batch 10 --threads 1")
@click.argument("models", nargs=-1)
@click.option("--paper", type=click.Choice(["table4", "table6"]),
              help="Measure the layers of a table of the Force Regularization paper.")  # fmt: skip
@click.option("--align", type=click.IntRange(0), default=16, show_default=True,
              help="With --paper: also ranks rounded up to this block; 0 for none.")  # fmt: skip
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
    models: tuple[str, ...], paper: str | None, align: int, batch: int, threads: int,
    device: str, seed: int, quick: bool, layers: bool, save_path: str | None, markdown: bool,
    as_json: bool,
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

    if (paper is None) == (not models):
        raise click.UsageError("give either ONNX files or --paper.")
    if paper:
        _paper(paper, batch, threads, align, device, as_json)
        return
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


def _paper(table: str, batch: int, threads: int, align: int, device: str, as_json: bool) -> None:
    from caffe_bridge.compress.latency.paper import paper_rows

    rows = paper_rows(table, batch=batch, threads=threads, block=align, device=device)
    if as_json:
        print_json([{**asdict(row), "measured": row.measured} for row in rows])
        return
    shown = Table(title=f"{table}: batch {batch}, {threads} threads", box=None)
    for name in ("net", "layer", "method", "rank", "ms before", "ms after", "measured",
                 "theoretical", "paper CPU", "paper GPU"):  # fmt: skip
        shown.add_column(name, justify="left" if name in ("net", "layer", "method") else "right")
    for row in rows:
        shown.add_row(
            row.net, row.layer, row.method, f"{row.rank}{' (aligned)' if row.aligned else ''}",
            f"{row.before_ms:.3f}", f"{row.after_ms:.3f}", f"{row.measured:.2f}x",
            f"{row.theoretical:.2f}x", f"{row.paper_cpu:.2f}x",
            "" if row.paper_gpu is None else f"{row.paper_gpu:.2f}x",
        )  # fmt: skip
    console().print(shown)
