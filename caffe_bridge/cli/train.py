"""``caffe-bridge train``."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from caffe_bridge.cli.common import check_output, json_option, print_json, verb
from caffe_bridge.errors import BridgeError
from caffe_bridge.log import Sink, glog_line, stream_sink

if TYPE_CHECKING:
    from caffe_bridge.solver import Solver


def progress_bar(console: Console) -> Progress:
    """A bar with elapsed and remaining time and the current loss."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("loss {task.fields[loss]:.4g}"), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip


def follow(solver: Solver, progress: Progress, title: str) -> None:
    """Let the bar follow the solver, a few updates a second."""
    total = int(solver.param.max_iter)
    task = progress.add_task(title, total=total, completed=solver.iteration, loss=0.0)
    last = [0.0]

    def update(engine: Solver) -> None:
        now = time.monotonic()
        if now - last[0] > 0.2 or engine.iteration == total:
            last[0] = now
            progress.update(task, completed=engine.iteration, loss=engine.loss)

    solver.callbacks.append(update)


def on_signals(solver: Solver) -> Callable[[], None]:
    """SIGINT stops after a snapshot (a second one at once), SIGHUP takes a snapshot.

    Returns:
        What undoes it.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        solver.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def snap(_number: int, _frame: FrameType | None) -> None:
        solver.snapshot_requested = True

    before = (signal.signal(signal.SIGINT, stop), signal.signal(signal.SIGHUP, snap))

    def undo() -> None:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGHUP, before[1])

    return undo


@verb(
    """caffe-bridge train --solver solvers/lenet/solver.prototxt
    caffe-bridge train --solver solver.prototxt --snapshot snapshots/lenet_iter_5000.solverstate
    torchrun --nproc-per-node 2 -m caffe_bridge train --solver solver.prototxt --snapshot latest"""
)
@click.option("--solver", "solver_path", required=True, help="Solver prototxt.")
@click.option("--weights", help="Caffemodels to start from, separated by commas.")
@click.option(
    "--snapshot", help="Solverstate to resume from, a prefix, or 'latest': its newest whole one."
)
@click.option("--caffe-resume", is_flag=True, help="Resume as Caffe: data from its beginning.")
@click.option("--sync-bn", is_flag=True, help="Several ranks: BatchNorm over all batches.")
@click.option("--rank-timeout", default=60.0, show_default=True,
              help="Several ranks: seconds of silence after which a rank is lost.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda[:N].")
@click.option("--log", "log_path", help="Append plain log lines to this file.")
@click.option("--quiet", is_flag=True, help="No log lines on the terminal.")
@json_option
def command(
    solver_path: str, weights: str | None, snapshot: str | None, device: str, log_path: str | None,
    quiet: bool, as_json: bool, caffe_resume: bool, sync_bn: bool, rank_timeout: float,
) -> None:  # fmt: skip
    """Train a net as Caffe does; Ctrl-C stops after writing a snapshot."""
    from caffe_bridge.solver import Solver, read_solver
    from caffe_bridge.solver.distributed import start_team
    from caffe_bridge.solver.resume import resume

    if weights and snapshot:
        raise click.UsageError("--weights starts anew and --snapshot resumes; give one of them.")
    check_device(device)
    if log_path:
        check_output(log_path, solver_path)
    ranks, device = start_team(device, sync_bn, rank_timeout)
    first = ranks.rank == 0
    terminal = Console(stderr=True)
    sinks: list[Sink] = []

    def log(line: str) -> None:
        for sink in sinks:
            sink(line)
        if quiet:
            return
        if terminal.is_terminal:
            terminal.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            plain(line)

    plain = stream_sink(sys.stderr)
    with ExitStack() as stack:
        stack.enter_context(ranks)
        solver = Solver(read_solver(solver_path), device=device, log=log, ranks=ranks)
        given = [path for path in (weights or "").split(",") if path and first]
        missing = [solver.net.load(path) for path in given]
        ranks.copy([blob.value for blob in solver.net.learnable])
        if snapshot:
            resume(solver, snapshot, exact=not caffe_resume)
        if log_path and first:
            stream = stack.enter_context(Path(log_path).open("a", encoding="utf-8"))
            sinks.append(stream_sink(stream))
        for name in missing[0] if missing else ():
            if all(name in names for names in missing):
                log(glog_line(f"No weights for layer {name}; its fillers stay", "net.cpp:1"))
        stack.callback(on_signals(solver))
        if terminal.is_terminal and first:
            follow(solver, stack.enter_context(progress_bar(terminal)), "train")
        solver.solve()
    if first:
        _report(solver, as_json)


def check_device(device: str) -> None:
    """Refuse a device that is unknown or absent.

    Raises:
        click.UsageError: neither cpu nor cuda[:N].
        BridgeError: no such CUDA device here.
    """
    import torch

    kind, _, index = device.partition(":")
    if device != "cpu" and (kind != "cuda" or not (index or "0").isdecimal() or device[-1] == ":"):
        raise click.UsageError(f"--device {device}: write cpu, cuda or cuda:N.")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and int(index or 0) >= count:
        raise BridgeError(f"--device {device}: torch sees {count} CUDA devices here; use cpu.")


def _report(solver: Solver, as_json: bool) -> None:
    from caffe_bridge.solver.snapshot import snapshot_paths

    param = solver.param
    weights, _ = snapshot_paths(
        param.snapshot_prefix, solver.iteration, param.snapshot_format == "HDF5"
    )
    every = int(param.snapshot)
    written = param.snapshot_after_train or (every and solver.iteration % every == 0)
    if as_json:
        print_json(
            {
                "iteration": solver.iteration,
                "loss": solver.loss,
                "tests": solver.test_results,
                "weights": weights if written else None,
            }
        )
        return
    click.echo(
        f"iteration {solver.iteration}, loss {solver.loss:.6g}"
        + "".join(f", {k} {v:.6g}" for r in solver.test_results for k, v in r.items())
        + (f": {weights}" if written else "")
    )
