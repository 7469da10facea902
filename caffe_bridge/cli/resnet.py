"""``caffe-bridge resnet``."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_bridge.cli.common import verb


@verb("caffe-bridge resnet --blocks 3 --force -o solvers/my_resnet20")
@click.option("--blocks", type=click.IntRange(1), default=3, show_default=True,
              help="Residual blocks in each of the three groups: 3 is ResNet-20.")  # fmt: skip
@click.option("--force", is_flag=True, help="Give the block convolutions force_mult: 1.")
@click.option("-o", "--output", required=True, help="Folder for the two prototxt files.")
def command(blocks: int, force: bool, output: str) -> None:
    """Write a CIFAR-10 ResNet as train_test.prototxt and deploy.prototxt."""
    from caffe_bridge.files import atomic_write
    from caffe_bridge.graph.resnet import resnet

    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, deploy in (("train_test.prototxt", False), ("deploy.prototxt", True)):
        with atomic_write(folder / name) as stream:
            stream.write(resnet(blocks, forced=force, deploy=deploy).encode())
        click.echo(str(folder / name))
