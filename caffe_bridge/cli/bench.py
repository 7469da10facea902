"""``caffe-bridge bench``."""

from __future__ import annotations

import json

import click

from caffe_bridge.cli.common import (
    align_block,
    check_output,
    console,
    json_option,
    parse_numbers,
    print_json,
    refuse_given,
    require_onnx,
    target_option,
    verb,
)
from caffe_bridge.files import atomic_write

#: Measuring with --paper, for each net, batch size and thread count.
_SECONDS, _QUICK_SECONDS = 6.0, 0.1


@verb(
    """caffe-bridge bench net.onnx lowrank/lowrank.onnx --batch 10 --threads 1
    caffe-bridge bench --paper table4 --batch 1,32 --threads 1,2 --save table4.json"""
)
@click.argument("models", nargs=-1)
@click.option("--paper", type=click.Choice(["table4", "table6"]),
              help="Measure AlexNet at the ranks of a table of the paper.")  # fmt: skip
@click.option("--align", default="auto", show_default=True, metavar="auto|N|none",
              help="With --paper: also ranks rounded up to the channel block.")  # fmt: skip
@click.option("--batch", metavar="N[,N]",
              help="Images of one run; default 1, and 1,32 with --paper.")  # fmt: skip
@click.option("--threads", metavar="N[,N]",
              help="Threads of one operator; default 1, and 1,2 with --paper.")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@target_option
@click.option("--seed", default=0, show_default=True, help="Seed of the inputs.")
@click.option("--quick", is_flag=True, help="A short measurement.")
@click.option("--layers/--no-layers", default=True, show_default=True, help="Time by layer too.")
@click.option("--save", "save_path", help="Write the result as JSON to this file.")
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@json_option
def command(
    models: tuple[str, ...], paper: str | None, align: str, batch: str | None,
    threads: str | None, device: str, target: str, seed: int, quick: bool, layers: bool,
    save_path: str | None, markdown: bool, as_json: bool,
) -> None:  # fmt: skip
    """Time MODELS (ONNX files) against the first of them, interleaved in one run.

    With --paper, time AlexNet at a published table's ranks and print the paper's numbers beside.
    """
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
    if save_path:
        check_output(save_path, *models)
    batches = parse_numbers(batch or ("1,32" if paper else "1"), "--batch")
    counts = parse_numbers(threads or ("1,2" if paper else "1"), "--threads")
    if paper:
        _paper(paper, batches, counts, align_block(align), device, target, quick, save_path,
               "json" if as_json else "markdown" if markdown else "")  # fmt: skip
        return
    refuse_given("without --paper", "align")
    if target != "portable":
        raise click.UsageError("--target goes with --paper only; ONNX files are what they are.")
    if len(batches) > 1 or len(counts) > 1:
        raise click.UsageError("several --batch or --threads go with --paper only.")
    for model in models:
        require_onnx(model)
    result = compare(models, batch=batches[0], threads=counts[0], device=device, seed=seed,
                     quick=quick, per_layer=layers)  # fmt: skip
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


def _paper(
    table: str, batches: list[int], threads: list[int], block: int, device: str, target: str,
    quick: bool, save_path: str | None, form: str,
) -> None:  # fmt: skip
    from caffe_bridge.compress.latency import paper_report as report

    result = report.run_paper(
        table, batches=batches, threads=threads, block=block, device=device,
        seconds=_QUICK_SECONDS if quick else _SECONDS,
        progress=lambda text: click.echo(text, err=True), export_for=target,
    )  # fmt: skip
    if save_path:
        with atomic_write(save_path) as stream:
            stream.write((json.dumps(result, indent=2) + "\n").encode())
    if form == "json":
        print_json(result)
        return
    if form == "markdown":
        click.echo(report.paper_markdown(result))
        return
    out = console()
    for shown in report.paper_tables(result):
        out.print(shown)
    for cells in report.references(result):
        out.print(f"paper, ranks not found: {', '.join(cells)}")
    out.print(report.where(result))
