"""``caffe-bridge run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from caffe_bridge.cli.common import json_option, parse_numbers, print_json, verb
from caffe_bridge.errors import BridgeError, DataError
from caffe_bridge.files import atomic_path, require_file

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read_array(path: str, shape: tuple[int, ...], mean: list[int], scale: float) -> np.ndarray:
    """An input from .npy or a picture (BGR, resized to the net's size, minus mean, times scale).

    Raises:
        DataError: another kind of file, or a picture for a blob that takes none.
    """
    found = require_file(path, "input")
    if found.suffix == ".npy":
        try:
            return np.load(found).astype(np.float32)
        except (ValueError, OSError) as error:
            raise DataError(f"{path}: is no readable .npy file ({error}).") from None
    if found.suffix.lower() not in _PICTURES:
        raise DataError(f"{path}: give a .npy file or a picture ({', '.join(_PICTURES)}).")
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise DataError(f"{path}: a picture needs an input of 1 or 3 channels, this has {shape}.")
    import cv2

    mode = cv2.IMREAD_COLOR if shape[1] == 3 else cv2.IMREAD_GRAYSCALE
    picture = cv2.imread(str(found), mode)
    if picture is None:
        raise DataError(f"{path}: OpenCV cannot decode it; it is damaged or no picture.")
    picture = cv2.resize(picture, (shape[3], shape[2])).reshape(shape[2], shape[3], shape[1])
    values = picture.astype(np.float32) - np.array(mean or [0], np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None] * scale).astype(np.float32)


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
@click.option("--top", default=5, show_default=True, help="Largest values to print per output.")
@click.option("--save", "save_path", help="Write all blobs to this .npz.")
@json_option
def command(
    net: str, weights: str, feed: tuple[str, ...], mean: str, scale: float, top: int,
    save_path: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Run NET with WEIGHTS on the given inputs and print its outputs."""
    import torch

    from caffe_bridge.cli.load import load_model

    model = load_model(net, weights)
    given = {}
    for text in feed:
        name, _, path = text.partition("=")
        if name not in model.inputs:
            raise BridgeError(f"--feed {text}: inputs of {net} are {', '.join(model.inputs)}.")
        array = read_array(path, model.inputs[name], parse_numbers(mean, "--mean"), scale)
        given[name] = torch.from_numpy(array)
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
