"""``caffe-bridge run``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from caffe_bridge.cli.common import (
    check_output,
    json_option,
    parse_floats,
    print_json,
    refuse_given,
    verb,
    warn,
)
from caffe_bridge.errors import BridgeError, DataError, ShapeError
from caffe_bridge.files import atomic_path, require_file

if TYPE_CHECKING:
    from caffe_bridge.net import Net

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read_array(path: str, shape: tuple[int, ...], mean: list[float], scale: float) -> np.ndarray:
    """An input from .npy or a picture (BGR, resized to the net's size, minus mean, times scale).

    Raises:
        DataError: another kind of file, or a picture for a blob that takes none.
    """
    found = require_file(path, "input data")
    if found.suffix == ".npy":
        try:
            return np.load(found).astype(np.float32)
        except (ValueError, TypeError, EOFError, OSError):
            reason = "is no .npy file of numbers; write it with numpy.save"
            raise DataError(f"{path}: {reason}.") from None
    if found.suffix.lower() not in PICTURES:
        raise DataError(f"{path}: give a .npy file or a picture ({', '.join(PICTURES)}).")
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise DataError(f"{path}: a picture needs an input of 1 or 3 channels, this has {shape}.")
    if len(mean) not in (0, 1, shape[1]):
        raise DataError(
            f"{path}: --mean has {len(mean)} numbers, the input has {shape[1]} channels; give one "
            "for all or one each."
        )
    import cv2

    mode = cv2.IMREAD_COLOR if shape[1] == 3 else cv2.IMREAD_GRAYSCALE
    picture = _decode(found, mode)
    picture = cv2.resize(picture, (shape[3], shape[2])).reshape(shape[2], shape[3], shape[1])
    values = picture.astype(np.float32) - np.array(mean or [0], np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None] * scale).astype(np.float32)


def _decode(path: Path, mode: int) -> np.ndarray:
    """Read a picture; what the decoders print goes into the message, or becomes a warning."""
    from caffe_bridge.data.datum import read_picture

    with tempfile.TemporaryFile() as log:
        standard_error = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            picture = read_picture(path, mode)
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
        log.seek(0)
        said = " ".join(log.read().decode(errors="replace").split())
    if picture is None:
        reason = f" ({said})" if said else ""
        raise DataError(
            f"{path}: OpenCV cannot decode it{reason}; it is damaged or no picture, replace it."
        )
    if said:
        warn(f"{path}: {said}")
    return picture


def check_shapes(model: Net, shapes: dict[str, tuple[int, ...]], sources: str) -> None:
    """Refuse inputs of shapes that the net, with the weights it has, cannot take.

    Raises:
        DataError: names the files and the layer that does not fit.
    """
    from caffe_bridge.net import infer_shapes

    graph, layers = model.built.graph, model.built.layers
    wanted = ", ".join(f"{name} {shape}" for name, shape in model.inputs.items())
    try:
        made = infer_shapes(graph, layers, shapes)
    except ShapeError as error:
        reason = f"does not fit the net, whose inputs are {wanted}"
        raise DataError(f"{sources}: {reason}: {error}") from error
    for node, layer in zip(graph.nodes, layers, strict=True):
        specs = layer.blob_specs([made[value.index] for value in node.inputs])
        found = [tuple(blob.shape) for blob in layer.blobs]
        if [tuple(spec.shape) for spec in specs] != found:
            given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise DataError(
                f"{sources}: gives {given}, but the weights of {layer.spec.label()} belong to "
                f"inputs {wanted}; give arrays of that shape."
            )


@verb(
    """caffe-bridge run deploy.prototxt net.caffemodel --feed data=cat.jpg --mean 104,117,123
    caffe-bridge run deploy.prototxt net.caffemodel --feed data=x.npy --save out.npz"""
)
@click.argument("net")
@click.argument("weights")
@click.option("--feed", multiple=True, required=True, metavar="BLOB=FILE",
              help="Input: .npy array or picture; repeatable.")  # fmt: skip
@click.option("--mean", default="", help="Per-channel BGR mean to subtract from pictures.")
@click.option("--scale", default=1.0, show_default=True, help="Factor after the mean.")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True,
              help="Largest values to print per output.")  # fmt: skip
@click.option("--save", "save_path", help="Write all blobs to this .npz.")
@json_option
def command(
    net: str, weights: str, feed: tuple[str, ...], mean: str, scale: float, top: int,
    save_path: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Run NET with WEIGHTS on the given inputs and print its outputs."""
    import torch

    from caffe_bridge.cli.load import load_model

    means = parse_floats(mean, "--mean")
    files = {}
    for text in feed:
        name, _, path = text.partition("=")
        if not name or not path:
            raise click.UsageError(f"--feed {text}: write it as BLOB=FILE.")
        files[name] = path
    pictures = [path for path in files.values() if Path(path).suffix.lower() in PICTURES]
    if not pictures:
        refuse_given("without a picture to read", "mean", "scale")
    if save_path:
        check_output(save_path, net, weights, *files.values())
    model = load_model(net, weights)
    given = {}
    for name, path in files.items():
        if name not in model.inputs:
            raise BridgeError(
                f"--feed {name}={path}: the inputs of {net} are {', '.join(model.inputs)}."
            )
        given[name] = torch.from_numpy(read_array(path, model.inputs[name], means, scale))
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    check_shapes(model, shapes, ", ".join(files.values()))
    with torch.no_grad():
        outputs = model(given)
    if save_path:
        with atomic_path(Path(save_path)) as temporary:
            arrays: dict[str, Any] = {k: v.numpy() for k, v in model.values.items()}
            with temporary.open("wb") as stream:
                np.savez(stream, **arrays)
    results = {}
    for name, tensor in outputs.items():
        rows = tensor.reshape(tensor.shape[0], -1) if tensor.ndim else tensor.reshape(1, 1)
        values, indices = rows.topk(min(top, rows.shape[1]))
        results[name] = {
            "shape": list(tensor.shape),
            "top": [
                [{"index": int(i), "value": float(v)} for v, i in zip(vs, ids, strict=True)]
                for vs, ids in zip(values, indices, strict=True)
            ],
        }
    if as_json:
        print_json(results)
        return
    for name, result in results.items():
        click.echo(f"{name} {tuple(result['shape'])}")
        for number, row in enumerate(result["top"]):
            best = ", ".join(f"{item['index']}: {item['value']:.6g}" for item in row)
            click.echo(f"  [{number}] {best}")
