"""``caffe-bridge train``."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from caffe_bridge.cli.common import verb
from caffe_bridge.errors import BridgeError
from caffe_bridge.log import stream_sink

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
    """SIGINT stops after a snapshot, SIGHUP takes a snapshot; returns what undoes it."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        solver.stop_requested = True

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
def command(
    solver_path: str, weights: str | None, snapshot: str | None, device: str, log_path: str | None,
    quiet: bool, caffe_resume: bool, sync_bn: bool, rank_timeout: float,
) -> None:  # fmt: skip
    """Train a net as Caffe does; Ctrl-C stops after writing a snapshot."""
    import torch

    from caffe_bridge.solver import Solver, read_solver
    from caffe_bridge.solver.distributed import start_team
    from caffe_bridge.solver.resume import resume

    if weights and snapshot:
        raise BridgeError("--weights starts anew and --snapshot resumes; give one of them.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BridgeError(f"--device {device}: this torch sees no CUDA device; use cpu.")
    ranks, device = start_team(device, sync_bn, rank_timeout)
    terminal = Console(stderr=True)
    plain = stream_sink(sys.stderr)
    first = ranks.rank == 0
    file = Path(log_path).open("a", encoding="utf-8") if log_path and first else None  # noqa: SIM115
    to_file = stream_sink(file) if file else None

    def log(line: str) -> None:
        if to_file:
            to_file(line)
        if quiet:
            return
        if terminal.is_terminal:
            terminal.print(line, highlight=False, markup=False)
        else:
            plain(line)

    try:
        with ranks:
            solver = Solver(read_solver(solver_path), device=device, log=log, ranks=ranks)
            for path in (weights or "").split(",") if first else ():
                if path:
                    solver.net.load(path)
            ranks.copy([blob.value for blob in solver.net.learnable])
            if snapshot:
                resume(solver, snapshot, exact=not caffe_resume)
            undo = on_signals(solver)
            try:
                with progress_bar(terminal) as progress:
                    if terminal.is_terminal and first:
                        follow(solver, progress, "train")
                    solver.solve()
            finally:
                undo()
    finally:
        if file:
            file.close()
    if first:
        click.echo(
            f"iteration {solver.iteration}, loss {solver.loss:.6g}"
            + "".join(f", {k} {v:.6g}" for r in solver.test_results for k, v in r.items())
        )
