"""The steps of ``caffe-bridge decompose``: what its options ask for, one function each."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from caffe_bridge.cli.convert import measured_forms
from caffe_bridge.errors import BridgeError, PlanError, printable
from caffe_bridge.files import atomic_write, require_file

if TYPE_CHECKING:
    from caffe_bridge.compress import Plan, Written
    from caffe_bridge.compress.calibration import Feed
    from caffe_bridge.net import Net

#: Options that choose by measured time.
_TIMED = {"target_speedup", "budget_ms"}


def read_json(path: str, kind: type, what: str) -> Any:
    """The value of a JSON file.

    Raises:
        PlanError: no JSON, another kind of value, or a list of other things than names.
    """
    try:
        value = json.loads(require_file(path, what).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise PlanError(f"{path}: is a binary file, expected JSON.") from None
    except ValueError as error:
        raise PlanError(f"{path}: is no valid JSON ({error}); correct it.") from None
    items: Any = value if isinstance(value, list) else ()
    if not isinstance(value, kind) or not all(isinstance(item, str) for item in items):
        form = '{"conv2": 26}' if kind is dict else '["conv1"]'
        raise PlanError(f"{path}: should hold {what}s as {form}, found {json.dumps(value)[:40]}.")
    return value


def make_budget_plan(
    net: str,
    weights: str,
    budget: str,
    excepted: list[str],
    fc: bool,
    block: int,
    sensitivity: str | None,
) -> Plan:
    """A plan for a share of the cost, written as ``macs=0.5``.

    Raises:
        BridgeError: see :func:`caffe_bridge.compress.budget.budget_plan`.
    """
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


def inputs_from(model: Net, source: str, batches: int) -> list[Feed]:
    """Batches for a net: of its own data layers, an npz, or what another prototxt's data read.

    Raises:
        BridgeError: the source cannot be read or gives other inputs.
    """
    import torch

    from caffe_bridge.cli.feeds import source_feeds
    from caffe_bridge.compress.calibration import data_feeds, npz_feeds

    if source == "data":
        return data_feeds(model, batches or 10)
    if source.endswith(".npz"):
        return npz_feeds(model, source, batches)
    found = source_feeds(source, model.inputs, batches, "TRAIN")
    return [{name: torch.from_numpy(feed[name]) for name in model.inputs} for feed in found]


def ranks_of_responses(
    net: str, weights: str, plan: Plan, source: str, batches: int, energy: float, rule: str,
    block: int, floor: int, only_smaller: bool,
) -> Plan:  # fmt: skip
    """The plan with the ranks that keep a share of the responses' energy.

    Raises:
        BridgeError: the data or the rule do not fit.
    """
    from caffe_bridge.compress.data_aware import with_response_ranks
    from caffe_bridge.graph import read_net
    from caffe_bridge.net import Net
    from caffe_bridge.schema import load_weights

    feeds = inputs_from(Net(net, "TEST", weights=weights), source, batches)
    record, stored = read_net(net), load_weights(weights)
    return with_response_ranks(
        plan, record, stored, feeds, energy, rule, block, floor, only_smaller
    )


def require_layers(plan: Plan, net: str, weights: str) -> None:
    """Refuse a plan in which every layer stays.

    Raises:
        PlanError: it is one; says why the first layers stay.
    """
    if not plan.decomposed():
        reasons = "; ".join(f"{e.layer}: {e.reason}" for e in plan.layers[:5])
        raise PlanError(
            f"{net}: has no layer to decompose with these options and the weights of {weights}"
            f"{f' ({reasons})' if reasons else ''}; use --fc, --config or other weights."
        )


def write(
    net: str, weights: str, plan: Plan, output: str, hdf5: bool, *, calibrate: str | None,
    recalibrate: str | None, batches: int, relu: bool, symmetric: bool,
) -> tuple[Written, Plan, list[str]]:  # fmt: skip
    """Write a decomposed net.

    Returns:
        The files, the plan with what is known now, and BatchNorm layers with new statistics.

    Raises:
        BridgeError: the plan, the data or the files do not fit; nothing is written then.
    """
    from caffe_bridge.compress import as_weights_of, rewrite, write_decomposed
    from caffe_bridge.compress.batch_norm import recalibrate as renew
    from caffe_bridge.compress.data_aware import decompose_with_data
    from caffe_bridge.graph import load_net, read_net
    from caffe_bridge.net import Net
    from caffe_bridge.schema import load_weights

    record, stored = read_net(net), load_weights(weights)
    if calibrate is None:
        made, blobs = rewrite(record, stored, plan)
    else:
        feeds = inputs_from(Net(net, "TEST", weights=weights), calibrate, batches)
        fitted = decompose_with_data(
            record, stored, plan, feeds, asymmetric=not symmetric, relu=relu
        )
        made, blobs, plan = fitted.net, fitted.blobs, fitted.plan
    renewed: list[str] = []
    if recalibrate is not None:
        model = Net(load_net(made, "TEST"), weights=as_weights_of(blobs))
        renewed = renew(model, inputs_from(model, recalibrate, batches))
        if not renewed:
            raise PlanError(f"{net}: --recalibrate found no BatchNorm layer; leave it out.")
        for name in renewed:
            blobs[name] = [blob.detach().cpu().numpy().copy() for blob in model.layer(name).blobs]
        plan.settings["recalibrated"] = renewed
    return write_decomposed(made, blobs, plan, output, hdf5), plan, renewed


def files_of(hdf5: bool) -> tuple[str, ...]:
    """Names of the files that the verb writes into its folder."""
    weights = "lowrank.caffemodel" + (".h5" if hdf5 else "")
    return "lowrank.prototxt", weights, "plan.json", "report.md", "lowrank.onnx"


def check_usage() -> None:
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
    idle = {"relu_aware", "symmetric", "response_ranks"} if "calibrate" not in given else set()
    for name in sorted(given & (idle | ({"batches"} if "recalibrate" not in given else set()))):
        if "calibrate" not in given:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option} has no effect without --calibrate.")
    if "sensitivity" in given and not given & {"budget", *_TIMED}:
        raise click.UsageError(
            "--sensitivity has no effect without --budget, --target-speedup or --budget-ms."
        )
    ruled = {"floor", "only_smaller", "response_ranks"}
    for name in sorted(given & ruled) if "energy" not in given else ():
        if name != "only_smaller" or not given & {"ranks", "config"}:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option} has no effect without --energy.")
    if "measure" in given and context.params["target"] != "ort-cpu":
        raise click.UsageError("--measure times forms on this processor; add --target ort-cpu.")
    ranks = context.params["ranks"]
    if {"rule", "ranks"} <= given and not ranks.endswith(".json"):
        raise click.UsageError("--rule has no effect with --ranks, which are given already.")
    unplanned = {
        "method": "--method", "except_path": "--except", "fc": "--fc", "rule": "--rule",
        "align": "--align",
    }  # fmt: skip
    timed = sorted(given & _TIMED)
    for name in given & {"method", "except_path", "fc", "rule", "align"} if timed else ():
        raise click.UsageError(
            f"--{name.removesuffix('_path')} has no effect with --{timed[0].replace('_', '-')}; "
            "use 'caffe-bridge plan' and change its plan."
        )
    idle = {"threads", "batch", "device", "seconds", "strict"}
    if "measure" in given:
        idle -= {"threads", "batch"}
    for name in () if timed else sorted(given & idle):
        raise click.UsageError(f"--{name} has no effect without --target-speedup or --budget-ms.")
    for name, option in unplanned.items():
        if "plan_path" in given and name in given:
            raise click.UsageError(f"{option} has no effect on --plan; change the plan instead.")


def plan_numbers(plan: Plan) -> Table:
    """The layers of a plan that was made without timing."""
    table = Table(box=None)
    for name in ("layer", "method", "rank", "energy", "norm", "error", "theoretical x", "reason"):
        table.add_column(name, justify="left" if name in ("layer", "reason", "method") else "right")
    for entry in plan.layers:
        norm = None if entry.energy is None else max(entry.energy, 0.0) ** 0.5
        numbers = (
            "" if x is None else f"{x:.3f}"
            for x in (entry.energy, norm, entry.error, entry.theoretical_speedup)
        )
        table.add_row(entry.layer, entry.method, str(entry.rank or ""), *numbers, entry.reason)
    return table


def write_report(plan: Plan, result: dict[str, Any]) -> Path:
    """Write ``report.md`` beside the plan: its layers, settings, and what was checked."""
    from caffe_bridge.compress.plan_report import plan_markdown

    facts: list[tuple[str, str]] = [
        (key, str(result[key])) for key in ("net", "weights", "onnx") if key in result
    ]
    if "worst" in result:
        facts.append(("ONNX against the low-rank net, worst output difference",
                      f"{result['worst']:.2g}"))  # fmt: skip
    if "from_portable" in result:
        facts.append(("ONNX against its portable form, largest difference",
                      f"{result['from_portable']:.2g}"))  # fmt: skip
    path = Path(result["plan"]).with_name("report.md")
    with atomic_write(path) as stream:
        stream.write(printable(plan_markdown(plan, facts)).encode("utf-8"))
    return path


def larger(plan: Plan) -> list[str]:
    """Layers that the plan replaces by no fewer multiply-accumulates."""
    return [e.layer for e in plan.decomposed() if (e.theoretical_speedup or 2.0) <= 1.0]


def to_onnx(
    net: Path, weights: Path, target: str, measure: tuple[int, int] | None, quiet: bool
) -> dict[str, Any]:
    """Export a net beside its prototxt, verified.

    Args:
        net: prototxt with Input layers.
        weights: its weights.
        target: for whom forms are chosen.
        measure: threads and batch with which forms are timed; None takes the target's choice.
        quiet: say nothing about the progress.

    Raises:
        VerifyError: onnxruntime gives other outputs.
        BridgeError: the net cannot be exported.
    """
    from caffe_bridge.net import Net
    from caffe_bridge.onnx_export import export, save
    from caffe_bridge.onnx_export.verify import compare_models, verify

    model = Net(net, "TEST", weights=weights)
    path = net.with_suffix(".onnx")
    found = measured_forms(model, *measure, quiet) if measure else []
    proto = export(model, target=target, forms={row.layer: row.best for row in found})
    result: dict[str, Any] = {"worst": verify(model, proto).require(str(path)).worst}
    if target != "portable":
        portable = compare_models(model, export(model), proto, (1,))
        result["from_portable"] = portable.require(str(path)).worst
    if measure:
        result["forms"] = [asdict(row) for row in found]
    return {"onnx": str(save(proto, path)), **result}
