"""``caffe-bridge convert``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from caffe_bridge.cli.common import (
    check_output,
    input_option,
    json_option,
    level_option,
    parse_numbers,
    parse_shapes,
    print_json,
    refuse_given,
    stage_option,
    target_option,
    verb,
)

if TYPE_CHECKING:
    from caffe_bridge.bench.forms import LayerForms
    from caffe_bridge.net import Net


def measured_forms(model: Net, threads: int, batch: int, quiet: bool) -> list[LayerForms]:
    """Times of the forms of the net's layers; progress on standard error.

    Args:
        model: the net.
        threads: threads of one operator.
        batch: images of one run; 0: the net's own.
        quiet: say nothing.
    """
    from caffe_bridge.bench.forms import measure_forms

    batch = batch or next((shape[0] for shape in model.inputs.values() if shape), 1)
    progress = None if quiet else lambda text: click.echo(text, err=True)
    return measure_forms(model, threads, batch, progress=progress)


@verb("caffe-bridge convert deploy.prototxt net.caffemodel -o net.onnx --verify")
@click.argument("net")
@click.argument("weights")
@click.option("-o", "--output", required=True, help="ONNX file to write.")
@click.option("--verify", "check", is_flag=True, help="Compare in onnxruntime, blob by blob.")
@click.option("--opset", default="17", show_default=True, help="Operator set, 13 to 'latest'.")
@click.option("--static", is_flag=True, help="Fix the batch size instead of leaving it free.")
@click.option("--output-blob", multiple=True, help="Blob to give out; repeatable.")
@click.option("--batch", default="1,3", show_default=True, help="Batch sizes to verify.")
@click.option("--seed", default=0, show_default=True, help="Seed of the verification inputs.")
@target_option
@click.option("--measure", is_flag=True,
              help="Choose each layer's form by timing it here (--target ort-cpu).")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True,
              help="Threads of one operator, for --measure.")  # fmt: skip
@level_option
@stage_option
@input_option
@json_option
def command(
    net: str, weights: str, output: str, check: bool, opset: str, static: bool,
    output_blob: tuple[str, ...], batch: str, seed: int, target: str, measure: bool, threads: int,
    level: int, stage: tuple[str, ...], inputs: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Convert NET with WEIGHTS to ONNX.

    With --verify nothing is written unless every output agrees. With --output-blob only the
    layers that lead to these blobs are converted. Targets other than portable choose faster
    operators of the same result, which is always verified, also against the portable form.
    """
    from caffe_bridge.cli.load import load_model
    from caffe_bridge.onnx_export import export, newest_opset, save
    from caffe_bridge.onnx_export.verify import compare_models, verify

    if measure and target != "ort-cpu":
        raise click.UsageError("--measure times forms on this processor; add --target ort-cpu.")
    if not measure:
        refuse_given("without --measure", "threads")
    if not check and target == "portable":
        refuse_given("without --verify", "batch", "seed")
    if opset != "latest" and not opset.isdecimal():
        raise click.UsageError(f"--opset {opset}: write a number or 'latest'.")
    number = newest_opset() if opset == "latest" else int(opset)
    sizes = parse_numbers(batch, "--batch")
    check_output(output, net, weights)
    model = load_model(net, weights, "TEST", level, stage, parse_shapes(inputs),
                       outputs=output_blob)  # fmt: skip
    forms = measured_forms(model, threads, 0, as_json) if measure else []
    options: dict[str, Any] = {
        "opset": number, "dynamic_batch": not static, "outputs": output_blob or None,
    }  # fmt: skip
    chosen = {row.layer: row.best for row in forms}
    proto = export(model, **options, target=target, forms=chosen)
    result: dict[str, object] = {"onnx": output, "opset": number, "target": target}
    if measure:
        result["forms"] = [asdict(row) for row in forms]
    if target != "portable":
        check = True
        portable = compare_models(model, export(model, **options), proto, sizes, seed=seed)
        result["from_portable"] = portable.require(output).worst
    if check:
        done = verify(model, proto, sizes, seed=seed, every_blob=True).require(output)
        result["batches"] = list(done.batches)
        result["outputs"] = [
            {"blob": d.blob, "batch": d.batch, "relative": d.relative, "absolute": d.absolute}
            for d in done.differences if d.output
        ]  # fmt: skip
        result["blobs_compared"] = len({d.blob for d in done.differences})
    path = save(proto, output)
    result["bytes"] = path.stat().st_size
    if as_json:
        print_json(result)
        return
    if check:
        for item in done.differences:
            if item.output:
                click.echo(f"{item.blob} at batch {item.batch}: largest relative difference "
                           f"{item.relative:.2g}")  # fmt: skip
        checked = ", ".join(map(str, done.batches))
        if target != "portable":
            click.echo(f"largest relative difference from the portable form: "
                       f"{result['from_portable']:.2g}")  # fmt: skip
        click.echo(
            f"verified {result['blobs_compared']} blobs at batch {checked}; "
            f"worst output {done.worst:.2g}"
        )
    click.echo(f"{path}: opset {number}, {path.stat().st_size:,} bytes")
