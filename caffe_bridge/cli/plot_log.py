"""``caffe-bridge plot-log``."""

from __future__ import annotations

import io
from pathlib import Path

import click

from caffe_bridge.cli.common import check_output, verb


@verb(
    """caffe-bridge plot-log train.log -o loss.png
    caffe-bridge plot-log a.log b.log -o accuracy.svg --y test:accuracy --x Seconds"""
)
@click.argument("logs", nargs=-1, required=True)
@click.option("-o", "--output", required=True, help="Picture to write: .png, .svg or .pdf.")
@click.option("--y", "columns", multiple=True, default=("train:SmoothedLoss",), show_default=True,
              help="train:COLUMN or test:COLUMN; repeatable.")  # fmt: skip
@click.option("--x", "along", default="NumIters", show_default=True, help="NumIters or Seconds.")
@click.option("--log-scale", is_flag=True, help="Logarithmic vertical axis.")
def command(
    logs: tuple[str, ...], output: str, columns: tuple[str, ...], along: str, log_scale: bool
) -> None:
    """Plot columns of training logs (see parse-log for their names)."""
    from matplotlib.figure import Figure

    from caffe_bridge.errors import BridgeError
    from caffe_bridge.files import atomic_write
    from caffe_bridge.solver.read_log import read_log_file

    check_output(output, *logs)
    kind = Path(output).suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise BridgeError(f"{output}: write .png, .svg or .pdf.")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for path in logs:
        log = read_log_file(path)
        for column in columns:
            title = column if len(logs) == 1 else f"{Path(path).name} {column}"
            x, y = log.series(along, column)
            axes.plot(x, y, label=title, marker="." if len(x) < 60 else None)
    axes.set_xlabel({"NumIters": "iterations", "Seconds": "seconds"}.get(along, along))
    axes.set_ylabel(columns[0].partition(":")[2] if len(columns) == 1 else "")
    if log_scale:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format=kind)
    with atomic_write(output) as target:
        target.write(stream.getvalue())
    click.echo(output)
