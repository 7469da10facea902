"""``caffe-bridge train``."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from caffe_bridge.cli.common import (
    check_output,
    json_option,
    print_json,
    refuse_given,
    stage_option,
    verb,
)
from caffe_bridge.cli.launch import launch_ranks
from caffe_bridge.cli.runtime import Choice, runtime_options
from caffe_bridge.log import Sink, glog_line, stream_sink

if TYPE_CHECKING:
    from caffe_bridge.schema import Record
    from caffe_bridge.solver import Solver


EFFECTS = click.Choice(["stop", "snapshot", "none"])


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


def on_signals(
    solver: Solver, sigint: str = "stop", sighup: str = "snapshot"
) -> Callable[[], None]:
    """Let SIGINT and SIGHUP each stop, take a snapshot, or do nothing, as Caffe's tool does.

    Stopping waits for the end of the iteration and its snapshot; a second SIGINT stops at once.

    Returns:
        What undoes it.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        solver.stop_requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def snap(_number: int, _frame: FrameType | None) -> None:
        solver.snapshot_requested = True

    effects: dict[str, Any] = {"stop": stop, "snapshot": snap, "none": signal.SIG_IGN}
    before = (signal.signal(signal.SIGINT, effects[sigint]),
              signal.signal(signal.SIGHUP, effects[sighup]))  # fmt: skip

    def undo() -> None:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGHUP, before[1])

    return undo


@verb(
    """caffe-bridge train --solver solvers/lenet/solver.prototxt
    caffe-bridge train --solver solver.prototxt --snapshot snapshots/lenet_iter_5000.solverstate
    torchrun --nproc-per-node 2 -m -- caffe_bridge train --solver solver.prototxt"""
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
@runtime_options
@click.option("--log", "log_path", help="Append plain log lines to this file.")
@click.option("--jsonl", help="Append a JSON object for each display, test, snapshot.")
@click.option("--tensorboard", metavar="DIR", help="Write TensorBoard scalars there.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1),
              help="Instead of the solver's random_seed.")  # fmt: skip
@click.option("--level", type=int, help="Level of the training net's state.")
@stage_option
@click.option("--sigint_effect", "--sigint-effect", "sigint", type=EFFECTS, default="stop",
              show_default=True, help="What Ctrl-C does.")  # fmt: skip
@click.option("--sighup_effect", "--sighup-effect", "sighup", type=EFFECTS, default="snapshot",
              show_default=True, help="What SIGHUP does.")  # fmt: skip
@click.option("--clip-energy", type=float,
              help="Shrink ranks of low-rank layers to this energy at every test.")  # fmt: skip
@click.option("--clip-until", default=-1, help="Iteration after which ranks stay.")
@click.option("--clip-except", default="", help="Layers that keep their rank, by commas.")
@click.option("--keep-zeros", is_flag=True,
              help="Weights that are zero stay zero (as keep_zeros: true).")  # fmt: skip
@click.option("--quiet", is_flag=True, help="No log lines on the terminal.")
@json_option
def command(
    solver_path: str, weights: str | None, snapshot: str | None, choice: Choice,
    log_path: str | None, jsonl: str | None, tensorboard: str | None, seed: int | None,
    level: int | None, stage: tuple[str, ...], sigint: str, sighup: str, quiet: bool, as_json: bool,
    caffe_resume: bool, sync_bn: bool, rank_timeout: float, clip_energy: float | None,
    clip_until: int, clip_except: str, keep_zeros: bool,
) -> None:  # fmt: skip
    """Train a net as Caffe does; Ctrl-C stops after writing a snapshot."""
    from caffe_bridge.compress.clip import RankClipper, clipped_before
    from caffe_bridge.net import RuntimeNet
    from caffe_bridge.solver import Solver
    from caffe_bridge.solver.distributed import start_team
    from caffe_bridge.solver.loss_scale import LossScale
    from caffe_bridge.solver.ranks import world_size
    from caffe_bridge.solver.resume import resume

    if weights and snapshot:
        raise click.UsageError("--weights starts anew and --snapshot resumes; give one of them.")
    if clip_energy is None:
        refuse_given("without --clip-energy", "clip_until", "clip_except")
    if not snapshot:
        refuse_given("without --snapshot", "caffe_resume")
    place, note = choice.place(), ""
    # A rank sees only the GPUs that the launching process chose.
    alone = world_size() == 1
    gpus = choice.gpus() if alone else []
    if choice.cuda_graph and not (alone and len(gpus) < 2):
        raise click.UsageError("--cuda-graph runs in one process; leave it out, or give one GPU.")
    if len(gpus) > 1:
        launch_ranks(gpus, click.get_current_context().obj)
    param = _parameters(solver_path, seed, level, stage)
    nets = (param.net, param.train_net, *param.test_net)
    for path in filter(None, (log_path, jsonl)):
        check_output(path, solver_path, *filter(None, (*nets, weights, snapshot)))
    if weights or snapshot:
        param.weights = [weights] if weights else []
    if keep_zeros:
        param.keep_zeros = True
    if not (choice.device or choice.gpu):
        place, note = _solver_mode(param)
    if param.debug_info and (choice.compile or choice.cuda_graph or choice.amp == "fp16"):
        raise click.UsageError(
            "debug_info needs every blob; leave --compile, --cuda-graph, --amp fp16 out."
        )
    ranks, place = start_team(place, sync_bn, rank_timeout)
    first = ranks.rank == 0
    terminal = Console(stderr=True)
    early: list[str] = []
    sinks: list[Sink] = [early.append]

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
    if note and first:
        log(glog_line(note, "caffe.cpp:1"))
    with ExitStack() as stack:
        stack.enter_context(ranks)
        runtime = choice.runtime(place)

        def make(settings: Record) -> Solver:
            made = Solver(
                settings, make_net=lambda spec: RuntimeNet(spec, runtime, log=log), device=place,
                log=log, ranks=ranks,
            )  # fmt: skip
            if runtime.amp == "fp16" and isinstance(made.net, RuntimeNet):
                made.gates.append(LossScale(made.net))
            return made

        excepted = [name for name in clip_except.split(",") if name]
        if clip_energy is not None and snapshot:
            param = clipped_before(param, snapshot, excepted)
        solver = make(param)
        if snapshot:
            resume(solver, snapshot, exact=not caffe_resume)
        if log_path and first:
            stream = stack.enter_context(Path(log_path).open("a", encoding="utf-8"))
            sinks[:] = [stream_sink(stream)]
            for line in early:
                sinks[0](line)
        else:
            sinks.clear()
        early.clear()
        if first:
            _listen(solver, stack, jsonl, tensorboard)
        stack.callback(on_signals(solver, sigint, sighup))
        if terminal.is_terminal and first:
            follow(solver, stack.enter_context(progress_bar(terminal)), "train")
        if clip_energy is None:
            solver.solve()
        else:
            solver = RankClipper(solver, make, clip_energy, clip_until, excepted).solve()
    if first:
        _report(solver, as_json)


def _parameters(path: str, seed: int | None, level: int | None, stages: Sequence[str]) -> Record:
    """The solver's parameters with what the command line changes."""
    from caffe_bridge.solver import read_solver

    param = read_solver(path)
    if seed is not None:
        param.random_seed = seed
    if level is not None:
        param.mutable("train_state").level = level
    for stage in stages:
        param.mutable("train_state").append("stage", stage)
    return param


def _solver_mode(param: Record) -> tuple[str, str]:
    """The device that the solver prototxt asks for, as Caffe's tool; a sentence if it is absent."""
    import torch

    from caffe_bridge.solver.ranks import world_size

    if not param.has("solver_mode") or param.solver_mode != "GPU":
        return "cpu", ""
    number, count = int(param.device_id), torch.cuda.device_count()
    if number >= count:
        return "cpu", (
            f"solver_mode: GPU asks for GPU {number}, torch sees {count} CUDA devices; training on "
            "the CPU"
        )
    return ("cuda" if world_size() > 1 else f"cuda:{number}"), ""


def _listen(solver: Solver, stack: ExitStack, jsonl: str | None, tensorboard: str | None) -> None:
    """Send the solver's events to the files that are asked for."""
    from caffe_bridge.solver.events import JsonLines, TensorBoard

    if tensorboard:
        board = TensorBoard(tensorboard)
        stack.callback(board.close)
        solver.listeners.append(board)
    if jsonl:
        stream = Path(jsonl).open("a", encoding="utf-8")  # noqa: SIM115 - the stack closes it
        stack.callback(stream.close)
        solver.listeners.append(JsonLines(stream))


def _report(solver: Solver, as_json: bool) -> None:
    from caffe_bridge.solver.snapshot import snapshot_paths

    param = solver.param
    weights, state = snapshot_paths(
        param.snapshot_prefix, solver.iteration, param.snapshot_format == "HDF5"
    )
    written = solver.last_snapshot == state and Path(weights).is_file()
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
