"""``caffe-bridge decompose``."""

from __future__ import annotations

from typing import Any

import click

from caffe_bridge.cli.common import (
    align_block,
    check_folder,
    console,
    floor_option,
    json_option,
    least_rank,
    parse_numbers,
    print_json,
    target_option,
    verb,
    warn,
)
from caffe_bridge.cli.decompose_steps import (
    check_usage,
    files_of,
    larger,
    make_budget_plan,
    plan_numbers,
    ranks_of_responses,
    read_json,
    require_layers,
    to_onnx,
    write,
    write_report,
)
from caffe_bridge.cli.plan import (
    exit_status,
    make_timed_plan,
    plan_table,
    seconds_option,
    strict_option,
    summary,
)
from caffe_bridge.errors import BridgeError, VerifyError

#: Frozen here, so that help needs no import of what registers them.
METHODS = ("pca", "svd", "kmeans", "weight_svd", "spatial", "spatial_h", "tucker", "cp")
RULES = ("energy", "norm", "error", "stable", "evbmf")


@verb(
    """caffe-bridge decompose deploy.prototxt net.caffemodel --energy 0.95 -o lowrank
    caffe-bridge decompose deploy.prototxt net.caffemodel --config config_iccv.json -o lowrank
    caffe-bridge decompose deploy.prototxt net.caffemodel --method spatial --energy 0.9 -o out"""
)
@click.argument("net")
@click.argument("weights")
@click.option("-o", "--output", required=True, help="Folder for prototxt, weights, plan and ONNX.")
@click.option(
    "--energy",
    type=float,
    help="Ratio for --rule; by default the share of the squared norm that each layer keeps.",
)
@click.option("--ranks", help="Ranks in prototxt order: 13,21,27; or a JSON file layer -> rank.")
@click.option(
    "--config",
    help="JSON file layer -> rank (as config_iccv.json), or -> object with method, rank or energy.",
)
@click.option("--plan", "plan_path", help="Plan written before, perhaps edited.")
@click.option("--budget", metavar="macs=0.5|params=0.5",
              help="Share of the cost to keep; chooses forms and ranks.")  # fmt: skip
@click.option("--sensitivity", metavar="JSON",
              help="Errors by 'caffe-bridge sensitivity', for budgets and time.")  # fmt: skip
@click.option("--calibrate", metavar="NPZ|PROTOTXT|data",
              help="Fit pca and svd layers to responses on inputs; data: NET's own.")  # fmt: skip
@click.option("--symmetric", is_flag=True,
              help="With --calibrate: PCA of the whole net's responses.")  # fmt: skip
@click.option("--response-ranks", is_flag=True,
              help="With --calibrate, --energy: ranks of the responses.")  # fmt: skip
@click.option("--relu-aware", is_flag=True,
              help="With --calibrate: keep what passes the ReLU behind a layer.")  # fmt: skip
@click.option("--recalibrate", metavar="NPZ|PROTOTXT|data",
              help="Give BatchNorm layers the statistics of these inputs afterwards.")  # fmt: skip
@click.option("--batches", default=0, help="Batches of inputs; 0: all of an npz, 10 of data.")
@click.option("--target-speedup", type=float,
              help="Choose forms and ranks by measured time for this speed-up.")  # fmt: skip
@click.option("--budget-ms", type=float,
              help="Choose forms and ranks so that the net takes these milliseconds.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True,
              help="Threads of one operator, for measured time.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True,
              help="Images of one run, for measured time.")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True,
              help="Where time is measured.")  # fmt: skip
@seconds_option
@strict_option
@click.option("--method", type=click.Choice(METHODS), default="pca", show_default=True,
              help="Decomposition of layers for which --config names none.")  # fmt: skip
@click.option("--rule", type=click.Choice(RULES), default="energy", show_default=True,
              help="How --energy chooses ranks.")  # fmt: skip
@click.option("--align", metavar="N|auto",
              help="Round ranks per group up; auto: to this CPU's channel block.")  # fmt: skip
@floor_option
@click.option("--only-smaller", is_flag=True,
              help="Layers that would not save multiply-accumulates stay whole.")  # fmt: skip
@click.option("--except", "except_path", help="JSON list of layers that stay whole.")
@click.option("--fc", is_flag=True, help="Decompose fully connected layers too.")
@click.option("--hdf5", is_flag=True, help="Write .caffemodel.h5.")
@click.option("--onnx/--no-onnx", default=True, show_default=True,
              help="Also write and verify ONNX (when the net can be built).")  # fmt: skip
@target_option
@click.option("--measure", is_flag=True,
              help="Choose ONNX forms by timing them here (--target ort-cpu).")  # fmt: skip
@json_option
def command(
    net: str, weights: str, output: str, energy: float | None, ranks: str | None,
    config: str | None, plan_path: str | None, budget: str | None, sensitivity: str | None,
    calibrate: str | None, symmetric: bool, response_ranks: bool, relu_aware: bool,
    recalibrate: str | None, batches: int, target_speedup: float | None, budget_ms: float | None,
    threads: int, batch: int, device: str, seconds: float, strict: bool, method: str, rule: str,
    align: str | None, floor: str | None, only_smaller: bool, except_path: str | None, fc: bool,
    hdf5: bool,
    onnx: bool, target: str, measure: bool, as_json: bool,
) -> int:  # fmt: skip
    """Replace layers of NET by smaller ones.

    Writes lowrank.prototxt, lowrank.caffemodel, plan.json, report.md and, for nets with Input
    layers, lowrank.onnx, whose outputs are compared with the low-rank net's. Where --target-speedup
    or --budget-ms is not reached it says so, writes what was best (the whole net where no gain is
    possible) and exits with 0; with --strict with 3.
    """
    from caffe_bridge.compress import load_plan, make_plan, refreshed
    from caffe_bridge.graph import read_net

    check_usage()
    check_folder(output, files_of(hdf5), net, weights, *filter(None, (calibrate, recalibrate)))
    timed = target_speedup is not None or budget_ms is not None
    if ranks and ranks.endswith(".json"):
        config, ranks = ranks, None
    if plan_path:
        plan = refreshed(load_plan(plan_path), net, weights)
    elif budget:
        excepted = read_json(except_path, list, "layer") if except_path else []
        plan = make_budget_plan(net, weights, budget, excepted, fc, align_block(align), sensitivity)
    elif timed:
        plan = make_timed_plan(
            net, weights, target_speedup=target_speedup, budget_ms=budget_ms, threads=threads,
            batch=batch, device=device, seconds=seconds, quiet=as_json,
            target=target, sensitivity=(sensitivity,) if sensitivity else (),
        )  # fmt: skip
    else:
        plan = make_plan(
            net, weights, energy=energy,
            ranks=parse_numbers(ranks, "--ranks") if ranks is not None else None,
            config=read_json(config, dict, "rank") if config is not None else None,
            except_layers=read_json(except_path, list, "layer") if except_path else (),
            method=method, rule=rule, include_fc=fc, block=align_block(align),
            floor=least_rank(floor, rule),
            # Whether a layer saves something, its last rank says.
            force_whole_if_not_smaller=only_smaller and not response_ranks,
            config_name=config or "config",
        )  # fmt: skip
        require_layers(plan, net, weights)
    if response_ranks and calibrate and energy:
        plan = ranks_of_responses(
            net, weights, plan, calibrate, batches, energy, rule, align_block(align),
            least_rank(floor, rule), only_smaller,
        )  # fmt: skip
        require_layers(plan, net, weights)
    written, plan, renewed = write(
        net, weights, plan, output, hdf5, calibrate=calibrate, recalibrate=recalibrate,
        batches=batches, relu=relu_aware, symmetric=symmetric,
    )  # fmt: skip
    # One of an earlier run would be that of another net.
    written.net.with_suffix(".onnx").unlink(missing_ok=True)
    result: dict[str, Any] = {
        "net": str(written.net), "weights": str(written.weights), "plan": str(written.plan),
        "ranks": {entry.layer: entry.rank for entry in plan.decomposed()},
    }  # fmt: skip
    if onnx and any(layer.type == "Input" for layer in read_net(written.net).layer):
        try:
            timing = (threads, batch) if measure else None
            result |= to_onnx(written.net, written.weights, target, timing, as_json)
        except VerifyError:
            raise
        except BridgeError as error:
            warn(f"no ONNX file is written: {error}")
    status = exit_status(plan, strict) if timed else 0
    if timed:
        result["measured"] = plan.settings
    if renewed:
        result["recalibrated"] = renewed
    result["report"] = str(write_report(plan, result))
    if as_json:
        print_json(result)
        return status
    out = console()
    out.print(plan_table(plan) if timed else plan_numbers(plan))
    if larger(plan) and not timed:
        warn(
            f"{', '.join(larger(plan))}: no fewer multiply-accumulates than before; lower ranks, "
            "or --only-smaller, which keeps such layers whole."
        )
    if calibrate and not any("fit to responses" in entry.reason for entry in plan.layers):
        warn("--calibrate had no effect: only layers of form pca and svd are fitted to data.")
    if renewed:
        out.print(f"new statistics: {', '.join(renewed)}")
    for key in ("net", "weights", "plan", "onnx", "report"):
        if key in result:
            out.print(f"{key}: {result[key]}")
    if "worst" in result:
        out.print(f"ONNX and low-rank net agree: worst output difference {result['worst']:.2g}")
    if "from_portable" in result:
        out.print(f"largest difference from the portable form: {result['from_portable']:.2g}")
    if timed:
        out.print(summary(plan))
    return status
