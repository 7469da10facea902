"""``caffe-bridge extract-features``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import json_option, print_json, verb
from caffe_bridge.cli.runtime import Choice
from caffe_bridge.errors import BridgeError


@verb(
    """caffe-bridge extract-features net.caffemodel train_val.prototxt fc7,fc8
    fc7_lmdb,fc8_lmdb 10 lmdb"""
)
@click.argument("weights")
@click.argument("net")
@click.argument("blobs")
@click.argument("targets")
@click.argument("batches", type=int)
@click.argument("backend", type=click.Choice(["lmdb", "leveldb"], False), default="lmdb")
@click.argument("mode", type=click.Choice(["CPU", "GPU"], False), default="CPU")
@click.argument("device", type=click.IntRange(0), default=0)
@json_option
def command(
    weights: str, net: str, blobs: str, targets: str, batches: int, backend: str, mode: str,
    device: int, as_json: bool,
) -> None:  # fmt: skip
    """Run NET on its own data and write BLOBS to the data bases TARGETS (both comma-separated).

    MODE is CPU or GPU, DEVICE the number of the GPU.
    """
    from caffe_bridge.net.features import extract_features

    names, folders = blobs.split(","), targets.split(",")
    if len(names) != len(folders):
        raise BridgeError(f"{len(names)} blobs but {len(folders)} data bases; give one each.")
    pairs = dict(zip(names, folders, strict=True))
    if len(pairs) != len(names):
        raise BridgeError(f"'{blobs}' names a blob twice; name each once.")
    place = Choice(gpu=str(device)).place() if mode == "GPU" else "cpu"
    counts = extract_features(net, weights, pairs, batches, backend, device=place)
    if as_json:
        print_json(counts)
        return
    for name, count in counts.items():
        click.echo(f"{pairs[name]}: {count} items of {name}")
