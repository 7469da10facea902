"""``caffe-bridge parse-log``."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_bridge.cli.common import json_option, print_json, verb


@verb("caffe-bridge parse-log train.log tables/")
@click.argument("log")
@click.argument("folder", default=".")
@click.option("--delimiter", default=",", show_default=True, help="Between columns.")
@json_option
def command(log: str, folder: str, delimiter: str, as_json: bool) -> None:
    """Write the displays and tests of LOG as FOLDER/LOG.train and FOLDER/LOG.test (CSV)."""
    if len(delimiter) != 1:
        raise click.UsageError(f"--delimiter '{delimiter}': give one character.")
    from caffe_bridge.solver.read_log import read_log_file, write_tables

    found = read_log_file(log)
    if as_json:
        print_json({"train": found.train, "test": found.test})
        return
    rows = (found.train, found.test)
    paths = write_tables(found, folder, Path(log).name, delimiter)
    for path, part in zip(paths, rows, strict=True):
        click.echo(f"{path}: {len(part)} rows")
