"""``caffe-bridge quantize``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffe_bridge.cli.common import (
    check_output,
    input_option,
    json_option,
    parse_floats,
    parse_shapes,
    print_json,
    refuse_given,
    verb,
)
from caffe_bridge.cli.feeds import source_feeds

if TYPE_CHECKING:
    from caffe_bridge.net import Net

#: Frozen here, so that help needs no import of the package.
METHODS = ("minmax", "percentile", "entropy")


@verb(
    """caffe-bridge quantize deploy.prototxt net.caffemodel --calibrate train.prototxt -o q.onnx
    caffe-bridge quantize deploy.prototxt net.caffemodel --calibrate pictures/ -o net.int8.onnx"""
)
@click.argument("net")
@click.argument("weights")
@click.option("-o", "--out", "output", required=True, help="ONNX file to write.")
@click.option("--calibrate", required=True, metavar="SOURCE",
              help="Prototxt (TRAIN data), npz, folder of pictures, or data: NET.")  # fmt: skip
@click.option("--batches", type=click.IntRange(0), default=0,
              help="Batches to calibrate on; 0: all of an npz or folder, 10 of data.")  # fmt: skip
@click.option("--evaluate", metavar="SOURCE",
              help="Data to compare on; else that of --calibrate (TEST phase).")  # fmt: skip
@click.option("--test-batches", type=click.IntRange(0), default=0,
              help="Batches to compare on; 0 as above.")  # fmt: skip
@click.option("--method", type=click.Choice(METHODS), default="percentile", show_default=True,
              help="How ranges are chosen.")  # fmt: skip
@click.option("--exclude", multiple=True, metavar="LAYER", help="Stays in float; repeatable.")
@click.option("--balance/--no-balance", default=True, show_default=True,
              help="Balance the factors of low-rank layers first.")  # fmt: skip
@click.option("--range", "weight_range", type=click.Choice(["auto", "full", "reduced"]),
              default="auto", show_default=True,
              help="8 or 7 bits of a weight; auto: 7 on x86 without VNNI.")  # fmt: skip
@click.option("--output-blob", multiple=True, help="Blob to give out; repeatable.")
@click.option("--label", default="label", show_default=True, help="Name of the labels.")
@click.option("--mean", default="", help="Per-channel BGR mean to subtract from pictures.")
@click.option("--scale", default=1.0, show_default=True, help="Factor after the mean.")
@input_option
@json_option
def command(
    net: str, weights: str, output: str, calibrate: str, batches: int, evaluate: str | None,
    test_batches: int, method: str, exclude: tuple[str, ...], balance: bool, weight_range: str,
    output_blob: tuple[str, ...], label: str, mean: str, scale: float, inputs: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Convert NET with WEIGHTS to int8 ONNX (QDQ) and compare it with the float net.

    Speed: 'caffe-bridge bench net.onnx net.int8.onnx'.
    """
    from caffe_bridge.cli.load import load_model
    from caffe_bridge.onnx_export import export, save
    from caffe_bridge.onnx_export.quantize import agreement, quantize

    check_output(output, net, weights, *(x for x in (calibrate, evaluate) if x and x != "data"))
    calibrate = net if calibrate == "data" else calibrate
    if not any(Path(source).is_dir() for source in (calibrate, evaluate or calibrate)):
        refuse_given("without a folder of pictures", "mean", "scale")
    means, shapes = parse_floats(mean, "--mean"), parse_shapes(inputs)
    model = load_model(net, weights, inputs=shapes, outputs=output_blob)
    float_bytes = export(model, outputs=output_blob or None).ByteSize()
    pairs = _balanced(model, net, weights) if balance else []
    feeds = source_feeds(calibrate, model.inputs, batches, "TRAIN", label, means, scale)
    proto = quantize(model, feeds, method, exclude, output_blob or None, _reduced(weight_range))
    feeds = source_feeds(evaluate or calibrate, model.inputs, test_batches, "TEST", label, means,
                         scale)  # fmt: skip
    found = agreement(model, proto, feeds, label)
    result: dict[str, Any] = {
        "onnx": str(save(proto, output)), "bytes": proto.ByteSize(), "float_bytes": float_bytes,
        "method": method, "balanced": pairs, "agreement": asdict(found),
    }  # fmt: skip
    if as_json:
        print_json(result)
        return
    for pair in pairs:
        click.echo(f"balanced {pair['first']} and {pair['second']}: norms of a rank differed up to "
                   f"{pair['ratio']:.3g}x")  # fmt: skip
    click.echo(
        f"'{found.output}' on {found.items} items: same largest entry {found.same:.2%}, mean "
        f"relative difference {found.relative:.3g}, worst {found.worst:.3g}"
    )
    if found.accuracy_float is not None and found.accuracy_int8 is not None:
        click.echo(f"accuracy: float {found.accuracy_float:.2%}, int8 {found.accuracy_int8:.2%}")
    click.echo(f"{output}: {proto.ByteSize():,} bytes (float {float_bytes:,})")


def _reduced(choice: str) -> bool:
    if choice != "auto":
        return choice == "reduced"
    from caffe_bridge.bench import machine_info

    machine = machine_info()
    return machine.channel_block > 0 and not {"avx_vnni", "avx512_vnni"} & set(machine.flags)


def _balanced(model: Net, net: str, weights: str) -> list[dict[str, Any]]:
    """Balance the factors inside the model; returns the pairs."""
    from caffe_bridge.compress import as_weights_of
    from caffe_bridge.compress.balance import balance

    _, blobs, pairs = balance(net, weights)
    if pairs:
        model.load(as_weights_of(blobs, weights))
    return [asdict(pair) for pair in pairs]
