"""``caffe-bridge classify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from caffe_bridge.cli.common import (
    check_output,
    json_option,
    parse_floats,
    parse_numbers,
    print_json,
    verb,
)
from caffe_bridge.errors import BridgeError

if TYPE_CHECKING:
    from caffe_bridge.pycaffe import Classifier


def read_mean(text: str | None) -> np.ndarray | None:
    """A mean given as file (.npy, .binaryproto) or as numbers; pictures are averaged.

    Raises:
        BridgeError: neither.
    """
    if not text:
        return None
    if Path(text).suffix == ".npy":
        try:
            mean = np.load(text)
        except (ValueError, OSError) as error:
            raise BridgeError(f"{text}: is no readable .npy file ({error}).") from None
    elif Path(text).suffix == ".binaryproto":
        from caffe_bridge.schema import read_blob

        mean = np.array(read_blob(text).array())
    else:
        return np.array(parse_floats(text, "--mean"), np.float32)
    return np.asarray(mean, np.float32).reshape(-1, *mean.shape[-2:]).mean((1, 2))


def read_labels(path: str | None, count: int) -> list[str]:
    """One name for each class, the class numbers without a file.

    Raises:
        BridgeError: too few lines.
    """
    if path is None:
        return [str(number) for number in range(count)]
    from caffe_bridge.files import require_file

    names = require_file(path, "labels").read_text(encoding="utf-8", errors="replace").splitlines()
    if len(names) < count:
        raise BridgeError(f"{path}: has {len(names)} lines for {count} classes; give one each.")
    return names


def score(net: Classifier, pictures: list[str], gray: bool, oversample: bool) -> np.ndarray:
    """Scores (N, classes) of picture files, one after the other so that memory stays small."""
    from caffe_bridge.pycaffe.io import load_image

    rows = [net.predict([load_image(path, not gray)], oversample) for path in pictures]
    return np.concatenate([row.reshape(1, -1) for row in rows])


@verb(
    """caffe-bridge classify deploy.prototxt net.caffemodel cat.jpg --mean mean.binaryproto
    --labels synset_words.txt --image-dims 256,256"""
)
@click.argument("net")
@click.argument("weights")
@click.argument("pictures", nargs=-1, required=True)
@click.option("--labels", help="Text file with one class name on each line.")
@click.option("--mean", help="Mean file (.npy, .binaryproto; averaged) or numbers, B,G,R.")
@click.option("--image-dims", default="", metavar="H,W", help="Size before cropping.")
@click.option("--raw-scale", default=255.0, show_default=True, help="Factor before the mean.")
@click.option("--input-scale", type=float, help="Factor after the mean.")
@click.option("--channel-swap", default="2,1,0", show_default=True,
              help="Order of the channels; ignored for gray nets.")  # fmt: skip
@click.option("--center-only", is_flag=True, help="The centre crop alone instead of ten crops.")
@click.option("--gray", is_flag=True, help="Read pictures with one channel.")
@click.option("--top", default=5, show_default=True, help="Classes to print.")
@click.option("-o", "--output", help="Write all scores to this .npy.")
@json_option
def command(
    net: str, weights: str, pictures: tuple[str, ...], labels: str | None, mean: str | None,
    image_dims: str, raw_scale: float, input_scale: float | None, channel_swap: str,
    center_only: bool, gray: bool, top: int, output: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Label PICTURES with NET and WEIGHTS."""
    from caffe_bridge.files import atomic_write
    from caffe_bridge.pycaffe import Classifier

    if output:
        check_output(output, net, weights, *pictures, *filter(None, (mean, labels)))
    dims = parse_numbers(image_dims, "--image-dims") if image_dims else []
    if dims and len(dims) != 2:
        raise BridgeError(f"--image-dims {image_dims}: write it as HEIGHT,WIDTH.")
    swapped = bool(channel_swap) and not gray
    swap = parse_numbers(channel_swap, "--channel-swap", 0) if swapped else None
    classifier = Classifier(
        net, weights, dims or None, read_mean(mean), input_scale, raw_scale, swap
    )
    scores = score(classifier, list(pictures), gray, not center_only)
    names = read_labels(labels, scores.shape[1])
    if output:
        with atomic_write(output) as stream:
            np.save(stream, scores)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    results = {
        path: [{"class": int(i), "label": names[i], "score": float(row[i])} for i in order]
        for path, row, order in zip(pictures, scores, best, strict=True)
    }
    if as_json:
        print_json(results)
        return
    for path, found in results.items():
        click.echo(path)
        for item in found:
            click.echo(f"  {item['score']:.4f}  {item['label']}")
