"""``caffe-bridge shrink``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from caffe_bridge.cli.common import (
    check_folder,
    console,
    input_option,
    json_option,
    parse_shapes,
    print_json,
    verb,
    warn,
)
from caffe_bridge.errors import BridgeError, VerifyError

if TYPE_CHECKING:
    from caffe_bridge.compress.sparse.shrink import Shrunk


@verb(
    """caffe-bridge shrink deploy.prototxt masked.caffemodel --out shrunk
    caffe-bridge shrink train_test.prototxt masked.caffemodel --out s --input data=64,1,28,28"""
)
@click.argument("net")
@click.argument("weights")
@click.option("-o", "--out", "output", required=True,
              help="Folder for prototxt, weights and ONNX.")  # fmt: skip
@click.option("--hdf5", is_flag=True, help="Write .caffemodel.h5.")
@click.option("--onnx/--no-onnx", default=True, show_default=True,
              help="Also write ONNX (when the net can be exported).")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Seed of the inputs of the check.")
@input_option
@json_option
def command(
    net: str, weights: str, output: str, hdf5: bool, onnx: bool, seed: int,
    inputs: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Take the zero filters, channels and groups of NET out of its tensors.

    Writes shrunk.prototxt, shrunk.caffemodel and shrunk.onnx. Nothing is written unless the outputs
    equal those of NET with WEIGHTS to 1e-5.
    """
    from caffe_bridge.compress.sparse.shrink import shrink, write_net

    shapes = parse_shapes(inputs)
    name = "shrunk.caffemodel.h5" if hdf5 else "shrunk.caffemodel"
    check_folder(output, ("shrunk.prototxt", name, "shrunk.onnx"), net, weights)
    made = shrink(net, weights, shapes, seed)
    proto, exported = _export(net, weights, made, shapes) if onnx else (None, {})
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BridgeError(f"{folder}: cannot make this folder ({error.strerror}).") from error
    prototxt, stored = write_net(made.net, made.blobs, folder / "shrunk.prototxt", folder / name)
    result: dict[str, Any] = {
        "net": str(prototxt), "weights": str(stored), "worst": made.worst,
        "parameters": made.weights, "layers": [asdict(row) for row in made.layers],
    }  # fmt: skip
    if proto is None:
        # One of an earlier run would be that of another net.
        (folder / "shrunk.onnx").unlink(missing_ok=True)
    else:
        from caffe_bridge.onnx_export import save

        result |= {"onnx": str(save(proto, folder / "shrunk.onnx")), **exported}
    if as_json:
        print_json(result)
        return
    _show(made, result)


def _export(
    net: str, weights: str, made: Shrunk, shapes: dict[str, tuple[int, ...]]
) -> tuple[Any, dict[str, Any]]:
    """The smaller ONNX model, held against the masked net; None where there is no ONNX form."""
    from caffe_bridge.cli.load import load_model
    from caffe_bridge.compress import as_weights_of
    from caffe_bridge.graph import load_net
    from caffe_bridge.net import Net, with_inputs
    from caffe_bridge.onnx_export import export
    from caffe_bridge.onnx_export.verify import verify

    masked = load_model(net, weights, inputs=shapes)
    spec = load_net(made.net, "TEST")
    smaller = Net(with_inputs(spec, shapes) if shapes else spec, weights=as_weights_of(made.blobs))
    try:
        large, proto = export(masked), export(smaller)
        worst = verify(masked, proto).require("the smaller ONNX model").worst
    except VerifyError:
        raise
    except BridgeError as error:
        warn(f"no ONNX file is written: {error}")
        return None, {}
    return proto, {"onnx_worst": worst, "onnx_bytes": [large.ByteSize(), proto.ByteSize()]}


def _show(made: Shrunk, result: dict[str, Any]) -> None:
    table = Table(box=None)
    for name in ("layer", "filters", "inputs", "weights", "kernels; constant filters that stay"):
        table.add_column(name, justify="right" if name in ("filters", "inputs", "weights") else
                         "left")  # fmt: skip
    for row in made.layers:
        sizes = (f"{a} -> {b}" if a != b else str(a) for a, b in
                 (row.filters, row.inputs, row.weights))  # fmt: skip
        notes = [f"{count}: {reason}" for reason, count in row.kept.items()]
        if row.kernel:
            old, new = ("x".join(map(str, size)) for size in row.kernel)
            notes.insert(0, f"kernel {old} -> {new}")
        kept = "; ".join(notes)
        table.add_row(row.layer, *sizes, kept)
    out = console()
    out.print(table)
    before, after = made.weights
    out.print(f"weights {before} -> {after}; worst output difference {made.worst:.2g}")
    if "onnx" in result:
        large, small = result["onnx_bytes"]
        out.print(f"ONNX {large} -> {small} bytes; its worst difference from the masked net "
                  f"{result['onnx_worst']:.2g}")  # fmt: skip
    for key in ("net", "weights", "onnx"):
        if key in result:
            out.print(f"{key}: {result[key]}")
