"""``caffe-bridge dataset``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import verb


@verb(
    """caffe-bridge dataset mnist downloads/mnist examples/mnist
    caffe-bridge dataset cifar10 cifar-10-binary.tar.gz examples/cifar10 --backend leveldb
    caffe-bridge dataset cifar10 cifar-10-binary.tar.gz data --pad 4"""
)
@click.argument("name", type=click.Choice(["mnist", "cifar10"]))
@click.argument("source")
@click.argument("target")
@click.option("--backend", type=click.Choice(["lmdb", "leveldb"]), default="lmdb",
              show_default=True, help="Kind of data base.")  # fmt: skip
@click.option("--pad", type=click.IntRange(0), default=0, show_default=True,
              help="cifar10: border of zeros around the pictures; changes the names.")  # fmt: skip
def command(name: str, source: str, target: str, backend: str, pad: int) -> None:
    """Turn the official files in SOURCE into data bases under TARGET, as Caffe's scripts do.

    mnist: the four IDX files, gzipped or not. cifar10: the binary version, its folder or tar.gz;
    also writes the mean picture; --pad 4 makes cifar10_pad4_*, which ResNets crop.
    """
    from pathlib import Path

    from caffe_bridge.data.official import make_cifar10, make_mnist
    from caffe_bridge.errors import DataError

    if not Path(source).exists():
        raise DataError(f"{source}: no such folder or file; download the official files first.")
    try:
        Path(target).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be made ({error.strerror}).") from None
    if name == "mnist" and pad:
        raise click.UsageError("--pad is for cifar10 only.")
    made = (
        make_mnist(source, target, backend) if name == "mnist"
        else make_cifar10(source, target, backend, pad)
    )  # fmt: skip
    for path in made:
        click.echo(path)
