"""``caffe-bridge compute-image-mean``."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_bridge.cli.common import check_output, json_option, print_json, verb
from caffe_bridge.errors import DataError


@verb("caffe-bridge compute-image-mean train_lmdb mean.binaryproto")
@click.argument("database")
@click.argument("target", required=False)
@click.option("--backend", type=click.Choice(["lmdb", "leveldb"]), default=None,
              help="Kind of data base; seen from its files by default.")  # fmt: skip
@json_option
def command(database: str, target: str | None, backend: str | None, as_json: bool) -> None:
    """Compute the mean picture of DATABASE, write it to TARGET and print the channels' means."""
    from caffe_bridge.data import compute_mean
    from caffe_bridge.data.records import detect_backend
    from caffe_bridge.schema import write_blob

    if target:
        check_output(target, *map(str, Path(database).glob("*")))
    kind = backend or detect_backend(database)
    if kind is None:
        raise DataError(f"'{database}' is no data base (LMDB or LevelDB folder); correct the path.")
    mean = compute_mean(database, kind)
    if target:
        write_blob(mean, target)
    means = [float(channel.mean()) for channel in mean]
    if as_json:
        print_json({"shape": list(mean.shape), "mean": means, "target": target})
        return
    for number, value in enumerate(means):
        click.echo(f"mean_value of channel {number}: {value:g}")
    if target:
        click.echo(f"{target}: {' x '.join(map(str, mean.shape))}")
