"""``caffe-bridge plan``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from rich.table import Table

from caffe_bridge.cli.common import (
    check_output,
    console,
    input_option,
    json_option,
    parse_shapes,
    target_option,
    verb,
    warn,
)

if TYPE_CHECKING:
    from caffe_bridge.compress import Plan

METHODS = ("pca", "weight_svd", "spatial", "spatial_h", "tucker")
#: Exit status under --strict where the target is not reached; everything is written all the same.
NOT_REACHED = 3


def make_timed_plan(
    net: str, weights: str, *, target_speedup: float | None, budget_ms: float | None = None,
    threads: int, batch: int, device: str = "cpu", methods: tuple[str, ...] = (),
    cache: str | None = None, inputs: tuple[str, ...] = (), quiet: bool = False,
    seconds: float = 240.0, target: str = "portable",
) -> Plan:  # fmt: skip
    """A plan for a measured speed-up; progress goes to standard error.

    Raises:
        BridgeError: see :func:`caffe_bridge.compress.latency.plan_for_time`.
    """
    from caffe_bridge.cli.load import load_spec
    from caffe_bridge.compress.latency import Request, default_path, plan_for_time

    request = Request(target_speedup, budget_ms, threads, batch, device, 0, methods or METHODS,
                      seconds, target)  # fmt: skip
    plan = plan_for_time(
        net, weights, request,
        spec=load_spec(net, inputs=parse_shapes(inputs)),
        cache=cache or str(default_path()),
        progress=None if quiet else lambda text: click.echo(text, err=True),
    )  # fmt: skip
    if not plan.settings["reached"]:
        warn(f"{net}: {plan.settings['verdict']}.")
    return plan


def plan_table(plan: Plan) -> Table:
    """The layers of a timed plan."""
    table = Table(box=None)
    for name in ("layer", "method", "rank", "ms before", "ms after", "energy", "reason"):
        left = name in ("layer", "method", "reason")
        table.add_column(name, justify="left" if left else "right")
    for entry in plan.layers:
        numbers = (
            "" if x is None else f"{x:.3f}"
            for x in (entry.ms_before, entry.ms_after, entry.energy)
        )  # fmt: skip
        table.add_row(entry.layer, entry.method, str(entry.rank or ""), *numbers, entry.reason)
    return table


def summary(plan: Plan) -> str:
    """What was measured of the whole net, in one line."""
    settings = plan.settings
    low, high = settings["measured_interval"]
    note = " (unstable: the machine was busy)" if settings["unstable"] else ""
    return (
        f"{settings['net_ms_before']:.3f} -> {settings['net_ms_after']:.3f} ms, "
        f"{settings['measured_speedup']:.2f}x ({low:.2f}-{high:.2f}){note} of "
        f"{settings['target_speedup']:.2f}x: {settings['verdict']}"
    )


def exit_status(plan: Plan, strict: bool) -> int:
    """0, or with --strict 3 where the target was not reached."""
    return NOT_REACHED if strict and not plan.settings["reached"] else 0


seconds_option = click.option(
    "--seconds", type=click.FloatRange(1), default=240.0, show_default=True,
    help="How long measuring may take.",
)  # fmt: skip
strict_option = click.option(
    "--strict", is_flag=True, help="Exit with status 3 when the target is not reached."
)


@verb("caffe-bridge plan deploy.prototxt net.caffemodel --target-speedup 2.0 -o plan.json")
@click.argument("net")
@click.argument("weights")
@click.option("-o", "--output", required=True, help="Plan (JSON) to write.")
@click.option("--target-speedup", type=float, help="How much faster the net should become.")
@click.option("--budget-ms", type=float, help="Milliseconds that the net may take.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True,
              help="Threads of one operator.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True,
              help="Images of one run.")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--method", "methods", type=click.Choice(METHODS), multiple=True,
              help="Decomposition to try; repeatable; all by default.")  # fmt: skip
@click.option("--cache", help="JSON file of known times; by default in the user's cache folder.")
@seconds_option
@strict_option
@target_option
@input_option
@json_option
def command(
    net: str, weights: str, output: str, target_speedup: float | None, budget_ms: float | None,
    threads: int, batch: int, device: str, methods: tuple[str, ...], cache: str | None,
    seconds: float, strict: bool, target: str, inputs: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Choose forms and ranks that make NET as fast as asked for, by measurement.

    Exit status: 0 when the plan is written, even where the target is not reached or no gain is
    possible (the net then stays whole, and the plan's "verdict" says why); with --strict 3 then.
    """
    if (target_speedup is None) == (budget_ms is None):
        raise click.UsageError("give exactly one of --target-speedup and --budget-ms.")
    check_output(output, net, weights)
    plan = make_timed_plan(
        net, weights, target_speedup=target_speedup, budget_ms=budget_ms, threads=threads,
        batch=batch, device=device, methods=methods, cache=cache, inputs=inputs, quiet=as_json,
        seconds=seconds, target=target,
    )  # fmt: skip
    plan.save(output)
    if as_json:
        click.echo(json.dumps(json.loads(plan.to_json()), indent=2))
        return exit_status(plan, strict)
    out = console()
    out.print(plan_table(plan))
    out.print(summary(plan))
    out.print(f"plan: {output}")
    return exit_status(plan, strict)
