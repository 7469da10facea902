"""``caffe-bridge convert-imageset``."""

from __future__ import annotations

import click

from caffe_bridge.cli.common import json_option, print_json, verb


@verb(
    """caffe-bridge convert-imageset pictures/ list.txt train_lmdb --resize-height 256
    --resize-width 256 --shuffle"""
)
@click.argument("root")
@click.argument("list_file")
@click.argument("target")
@click.option("--backend", type=click.Choice(["lmdb", "leveldb"]), default="lmdb",
              show_default=True, help="Kind of data base.")  # fmt: skip
@click.option("--resize-height", default=0, help="Height to resize to (with --resize-width).")
@click.option("--resize-width", default=0, help="Width to resize to (with --resize-height).")
@click.option("--gray", is_flag=True, help="One channel instead of three.")
@click.option("--encoded", is_flag=True, help="Store pictures compressed.")
@click.option("--encode-type", default="", help="Their format: jpg, png; means --encoded.")
@click.option("--check-size", is_flag=True, help="Refuse pictures of different sizes.")
@click.option("--shuffle", is_flag=True, help="Draw the order of the list.")
@click.option("--seed", default=0, show_default=True, help="Seed of that order.")
@json_option
def command(
    root: str, list_file: str, target: str, backend: str, resize_height: int, resize_width: int,
    gray: bool, encoded: bool, encode_type: str, check_size: bool, shuffle: bool, seed: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Write the pictures of LIST_FILE (``name label``, under ROOT) to the data base TARGET."""
    from caffe_bridge.data.convert_imageset import ImagesetOptions, convert_imageset

    options = ImagesetOptions(
        (resize_height, resize_width), gray, encoded, encode_type, check_size, shuffle, seed
    )
    report = convert_imageset(root, list_file, target, backend, options)
    if as_json:
        print_json({"target": target, "written": report.written, "unreadable": report.unreadable})
        return
    for name in report.unreadable:
        click.echo(f"warning: {root + name} cannot be read; left out", err=True)
    click.echo(f"{target}: {report.written} records")
