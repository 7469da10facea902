"""``caffe-bridge decompose``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from caffe_bridge.cli.common import (
    align_block,
    console,
    json_option,
    parse_numbers,
    print_json,
    target_option,
    verb,
    warn,
)
from caffe_bridge.cli.plan import (
    exit_status,
    make_timed_plan,
    plan_table,
    seconds_option,
    strict_option,
    summary,
)
from caffe_bridge.errors import BridgeError, PlanError, VerifyError
from caffe_bridge.files import require_file

if TYPE_CHECKING:
    from caffe_bridge.compress import Plan, Written


def _read_json(path: str, kind: type, what: str) -> Any:
    try:
        value = json.loads(require_file(path, what).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise PlanError(f"{path}: is a binary file, expected JSON.") from None
    except ValueError as error:
        raise PlanError(f"{path}: is no valid JSON ({error}); correct it.") from None
    if not isinstance(value, kind):
        form = '{"conv2": 26}' if kind is dict else '["conv1"]'
        raise PlanError(f"{path}: should hold {what}s as {form}, found {json.dumps(value)[:40]}.")
    return value


#: Frozen here, so that help needs no import of what registers them.
METHODS = ("pca", "svd", "kmeans", "weight_svd", "spatial", "spatial_h", "tucker", "cp")
#: Options that choose by measured time.
_TIMED = {"target_speedup", "budget_ms"}
RULES = ("energy", "norm", "error", "stable", "evbmf")


def _budget_plan(
    net: str,
    weights: str,
    budget: str,
    excepted: list[str],
    fc: bool,
    block: int,
    sensitivity: str | None,
) -> Plan:
    from caffe_bridge.compress.budget import budget_plan
    from caffe_bridge.compress.sensitivity import read_scan

    unit, _, share = budget.partition("=")
    try:
        keep = float(share)
    except ValueError:
        raise BridgeError(f"--budget {budget}: write it as macs=0.5 or params=0.5.") from None
    return budget_plan(
        net,
        weights,
        unit=unit,
        keep=keep,
        except_layers=excepted,
        include_fc=fc,
        block=block,
        scan=read_scan(sensitivity) if sensitivity else None,
    )


def _calibrated(
    net: str,
    weights: str,
    plan: Plan,
    output: str,
    hdf5: bool,
    source: str,
    batches: int,
    relu: bool,
) -> tuple[Written, Plan]:
    from caffe_bridge.compress import write_decomposed
    from caffe_bridge.compress.calibration import data_feeds, npz_feeds
    from caffe_bridge.compress.data_aware import decompose_with_data
    from caffe_bridge.graph import read_net
    from caffe_bridge.net import Net
    from caffe_bridge.schema import load_weights

    model = Net(net, "TEST", weights=weights)
    if source == "data":
        feeds = data_feeds(model, batches or 10)
    else:
        feeds = npz_feeds(model, source, batches)
    made = decompose_with_data(read_net(net), load_weights(weights), plan, feeds, relu=relu)
    return write_decomposed(made.net, made.blobs, made.plan, output, hdf5), made.plan


def _check_usage() -> None:
    """Refuse options that contradict each other.

    Raises:
        click.UsageError: not one source of ranks, or an option that has no effect.
    """
    context = click.get_current_context()
    given = {
        name for name in context.params
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }  # fmt: skip
    sources = {"energy", "ranks", "config", "plan_path", "budget", *_TIMED}
    if len(given & sources) != 1:
        raise click.UsageError(
            "give exactly one of --energy, --ranks, --config, --plan, --budget, "
            "--target-speedup and --budget-ms."
        )
    for name in {"method", "rule"} & given if "budget" in given else ():
        raise click.UsageError(f"--{name} has no effect on --budget, which chooses among forms.")
    for name in sorted(given & {"batches", "relu_aware"}) if "calibrate" not in given else ():
        option = "--" + name.replace("_", "-")
        raise click.UsageError(f"{option} has no effect without --calibrate.")
    if "sensitivity" in given and "budget" not in given:
        raise click.UsageError("--sensitivity has no effect without --budget.")
    idle = {"method": "--method", "except_path": "--except", "fc": "--fc"}
    timed = sorted(given & _TIMED)
    for name in given & {"method", "except_path", "fc", "rule", "align"} if timed else ():
        raise click.UsageError(
            f"--{name.removesuffix('_path')} has no effect with --{timed[0].replace('_', '-')}; "
            "use 'caffe-bridge plan' and change its plan."
        )
    for name in () if timed else given & {"threads", "batch", "device", "seconds", "strict"}:
        raise click.UsageError(f"--{name} has no effect without --target-speedup or --budget-ms.")
    for name, option in idle.items():
        if "plan_path" in given and name in given:
            raise click.UsageError(f"{option} has no effect on --plan; change the plan instead.")


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
              help="With --budget: errors measured by 'caffe-bridge sensitivity'.")  # fmt: skip
@click.option("--calibrate", metavar="NPZ|data",
              help="Fit pca and svd layers to responses on these inputs.")  # fmt: skip
@click.option("--relu-aware", is_flag=True,
              help="With --calibrate: keep what passes the ReLU behind a layer.")  # fmt: skip
@click.option("--batches", default=0, help="Batches to calibrate on; 0: all of an npz, 10 of data.")
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
@click.option("--except", "except_path", help="JSON list of layers that stay whole.")
@click.option("--fc", is_flag=True, help="Decompose fully connected layers too.")
@click.option("--hdf5", is_flag=True, help="Write .caffemodel.h5.")
@click.option("--onnx/--no-onnx", default=True, show_default=True,
              help="Also write and verify ONNX (when the net can be built).")  # fmt: skip
@target_option
@json_option
def command(
    net: str, weights: str, output: str, energy: float | None, ranks: str | None,
    config: str | None, plan_path: str | None, budget: str | None, sensitivity: str | None,
    calibrate: str | None, relu_aware: bool, batches: int, target_speedup: float | None,
    budget_ms: float | None, threads: int, batch: int, device: str, seconds: float, strict: bool,
    method: str, rule: str, align: str | None,
    except_path: str | None, fc: bool, hdf5: bool, onnx: bool, target: str, as_json: bool,
) -> int:  # fmt: skip
    """Replace layers of NET by smaller ones.

    Writes lowrank.prototxt, lowrank.caffemodel, plan.json and, for nets with Input layers,
    lowrank.onnx, whose outputs are compared with the low-rank net's. Where --target-speedup or
    --budget-ms is not reached it says so, writes what was best (the whole net where no gain is
    possible) and exits with 0; with --strict with 3.
    """
    from caffe_bridge.compress import decompose_net, load_plan, make_plan
    from caffe_bridge.graph import read_net

    _check_usage()
    timed = target_speedup is not None or budget_ms is not None
    if ranks and ranks.endswith(".json"):
        config, ranks = ranks, None
    if plan_path:
        plan = load_plan(plan_path)
    elif budget:
        excepted = _read_json(except_path, list, "list") if except_path else []
        plan = _budget_plan(net, weights, budget, excepted, fc, align_block(align), sensitivity)
    elif timed:
        plan = make_timed_plan(
            net, weights, target_speedup=target_speedup, budget_ms=budget_ms, threads=threads,
            batch=batch, device=device, seconds=seconds, quiet=as_json,
            target=target,
        )  # fmt: skip
    else:
        plan = make_plan(
            net, weights, energy=energy,
            ranks=parse_numbers(ranks, "--ranks") if ranks is not None else None,
            config=_read_json(config, dict, "rank") if config is not None else None,
            except_layers=_read_json(except_path, list, "layer") if except_path else (),
            method=method, rule=rule, include_fc=fc, block=align_block(align),
        )  # fmt: skip
        if not plan.decomposed():
            reasons = "; ".join(f"{e.layer}: {e.reason}" for e in plan.layers[:5])
            raise PlanError(
                f"{net}: has no layer to decompose with these options and the weights of {weights}"
                f"{f' ({reasons})' if reasons else ''}; use --fc, --config or other weights."
            )
    if calibrate:
        written, plan = _calibrated(
            net, weights, plan, output, hdf5, calibrate, batches, relu_aware
        )
    else:
        written = decompose_net(net, weights, plan, output, hdf5)
    result: dict[str, Any] = {
        "net": str(written.net), "weights": str(written.weights), "plan": str(written.plan),
        "ranks": {entry.layer: entry.rank for entry in plan.decomposed()},
    }  # fmt: skip
    if onnx and any(layer.type == "Input" for layer in read_net(written.net).layer):
        try:
            result |= _to_onnx(written.net, written.weights, target)
        except VerifyError:
            raise
        except BridgeError as error:
            warn(f"no ONNX file is written: {error}")
    status = exit_status(plan, strict) if timed else 0
    if timed:
        result["measured"] = plan.settings
    if as_json:
        print_json(result)
        return status
    out = console()
    out.print(plan_table(plan) if timed else _table(plan))
    for key in ("net", "weights", "plan", "onnx"):
        if key in result:
            out.print(f"{key}: {result[key]}")
    if "worst" in result:
        out.print(f"ONNX and low-rank net agree: worst output difference {result['worst']:.2g}")
    if timed:
        out.print(summary(plan))
    return status


def _table(plan: Plan) -> Table:
    """The layers of a plan that was made without timing."""
    table = Table(box=None)
    for name in ("layer", "method", "rank", "energy", "theoretical x", "reason"):
        table.add_column(name, justify="left" if name in ("layer", "reason", "method") else "right")
    for entry in plan.layers:
        numbers = (
            "" if x is None else f"{x:.3f}" for x in (entry.energy, entry.theoretical_speedup)
        )
        table.add_row(entry.layer, entry.method, str(entry.rank or ""), *numbers, entry.reason)
    return table


def _to_onnx(net: Path, weights: Path, target: str) -> dict[str, Any]:
    from caffe_bridge.net import Net
    from caffe_bridge.onnx_export import export, save
    from caffe_bridge.onnx_export.verify import verify

    model = Net(net, "TEST", weights=weights)
    path = net.with_suffix(".onnx")
    proto = export(model, target=target)
    worst = verify(model, proto).require(str(path)).worst
    return {"onnx": str(save(proto, path)), "worst": worst}
