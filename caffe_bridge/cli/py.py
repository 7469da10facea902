"""``caffe-bridge py``."""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path

import click

from caffe_bridge.cli.common import verb


@verb(
    """caffe-bridge py classify.py cat.jpg
    caffe-bridge py --force script.py""",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--force", is_flag=True, help="Even when a real caffe can be imported.")
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(force: bool, script: str, arguments: tuple[str, ...]) -> int:
    """Run a Python SCRIPT in which 'import caffe' means this package.

    Everything after SCRIPT belongs to the script. Exit status is the script's; an exception in it
    is shown with its traceback.
    """
    from caffe_bridge.files import require_file
    from caffe_bridge.pycaffe.stand_in import install

    path = require_file(script, "script")
    sys.path.insert(0, str(path.resolve().parent))
    install(force)
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        click.echo(stop.code, err=True)
        return 1
    except Exception as error:
        shown = error.__traceback__
        while shown is not None and Path(shown.tb_frame.f_code.co_filename) != path:
            shown = shown.tb_next
        traceback.print_exception(type(error), error, shown or error.__traceback__, file=sys.stderr)
        return 1
    return 0
