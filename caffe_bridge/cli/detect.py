"""``caffe-bridge detect``."""

from __future__ import annotations

import csv
from pathlib import Path

import click
import numpy as np

from caffe_bridge.cli.classify import read_labels, read_mean
from caffe_bridge.cli.common import check_output, parse_numbers, verb
from caffe_bridge.errors import DataError

_COLUMNS = ("filename", "ymin", "xmin", "ymax", "xmax")


def read_windows(path: str) -> list[tuple[str, np.ndarray]]:
    """Pictures with their windows (N, 4) from a CSV file with the columns of pycaffe's detect.py.

    Raises:
        DataError: other columns, or values that are no numbers.
    """
    from caffe_bridge.files import require_file

    found: dict[str, list[list[float]]] = {}
    text = require_file(path, "window").read_text(encoding="utf-8", errors="replace")
    reader = csv.DictReader(text.splitlines())
    if not set(_COLUMNS) <= set(reader.fieldnames or ()):
        raise DataError(f"{path}: needs the columns {', '.join(_COLUMNS)}.")
    for row in reader:
        try:
            box = [float(row[name]) for name in _COLUMNS[1:]]
        except (TypeError, ValueError):
            raise DataError(f"{path}:{reader.line_num}: windows are four numbers.") from None
        found.setdefault(row["filename"], []).append(box)
    return [(name, np.array(boxes)) for name, boxes in found.items()]


@verb("caffe-bridge detect deploy.prototxt net.caffemodel windows.csv scores.csv --context-pad 16")
@click.argument("net")
@click.argument("weights")
@click.argument("windows")
@click.argument("target")
@click.option("--labels", help="Text file with one class name on each line.")
@click.option("--mean", help="Mean file (.npy, .binaryproto; averaged) or numbers, B,G,R.")
@click.option("--raw-scale", default=255.0, show_default=True, help="Factor before the mean.")
@click.option("--input-scale", type=float, help="Factor after the mean.")
@click.option("--channel-swap", default="2,1,0", show_default=True, help="Order of the channels.")
@click.option("--context-pad", default=0, show_default=True,
              help="Pixels of context around each window.")  # fmt: skip
def command(
    net: str, weights: str, windows: str, target: str, labels: str | None, mean: str | None,
    raw_scale: float, input_scale: float | None, channel_swap: str, context_pad: int,
) -> None:  # fmt: skip
    """Score the windows of the CSV file WINDOWS; write them with all scores to TARGET (CSV).

    WINDOWS has the columns filename, ymin, xmin, ymax, xmax.
    """
    import io

    from caffe_bridge.files import atomic_write
    from caffe_bridge.pycaffe import Detector

    check_output(target, windows, net, weights, *filter(None, (mean, labels)))
    swap = parse_numbers(channel_swap, "--channel-swap", 0) if channel_swap else None
    detector = Detector(net, weights, read_mean(mean), input_scale, raw_scale, swap, context_pad)
    found = detector.detect_windows(read_windows(windows))
    if not found:
        raise DataError(f"{windows}: has no windows.")
    names = read_labels(labels, len(found[0]["prediction"]))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_COLUMNS, *names[: len(found[0]["prediction"])]])
    for item in found:
        scores = (f"{value:.6g}" for value in item["prediction"])
        writer.writerow([item["filename"], *(f"{v:g}" for v in item["window"]), *scores])
    with atomic_write(target) as out:
        out.write(stream.getvalue().encode())
    pictures = len({item["filename"] for item in found})
    click.echo(f"{Path(target)}: {len(found)} windows of {pictures} pictures")
