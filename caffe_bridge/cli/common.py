"""What the verbs share: examples in the help, parsing of options, output."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from caffe_bridge.errors import BridgeError, SchemaError
from caffe_bridge.files import looks_like_text, refuse_impostor, require_file
from caffe_bridge.strict_json import strict_json

#: Columns of a table that goes into a file or a pipe.
_PIPE_COLUMNS = 200


class ExampleCommand(click.Command):
    """A command whose help starts with an example."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, then the usual help."""
        formatter.write("Example:\n")
        for line in self.example.strip().splitlines():
            formatter.write(f"  {line.strip()}\n")
        formatter.write_paragraph()
        super().format_help(ctx, formatter)


def verb(example: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorator: make a function a command with an example."""
    context = {"help_option_names": ["-h", "--help"], **settings.pop("context_settings", {})}
    return click.command(cls=ExampleCommand, example=example, context_settings=context, **settings)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
phase_option = click.option(
    "--phase", type=click.Choice(["TRAIN", "TEST"]), default="TEST", show_default=True,
    help="Phase for which the net is filtered.",
)  # fmt: skip
#: The names in ``onnx_export.TARGETS``, frozen here so that help needs no import of onnx.
target_option = click.option(
    "--target", type=click.Choice(["portable", "ort-cpu", "ort-cuda"]), default="portable",
    show_default=True,
    help="What the ONNX operators are chosen for: any runtime, or onnxruntime on one device.",
)  # fmt: skip
level_option = click.option("--level", default=0, show_default=True, help="Level of the net state.")


def _stages(_context: object, _param: object, given: Sequence[str]) -> tuple[str, ...]:
    return tuple(stage for text in given for stage in text.split(",") if stage)


stage_option = click.option(
    "--stage", multiple=True, callback=_stages,
    help="Stages of the net state, separated by commas; repeatable.",
)  # fmt: skip
input_option = click.option(
    "--input", "--input-shape", "inputs", multiple=True, metavar="NAME=N,C,H,W",
    help="Shape of an input blob (also replaces a data layer by an input); repeatable.",
)  # fmt: skip


def import_modules(
    _ctx: click.Context, _option: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    """Import plug-in modules, looked for in the current folder too.

    Raises:
        BridgeError: a module cannot be imported.
    """
    if names and "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        _import(name)
    return names


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except BridgeError:
        raise
    except Exception as error:
        raise BridgeError(
            f"--import {name}: cannot be imported ({type(error).__name__}: {error}); give the "
            "name of a module in the current folder or of an installed package."
        ) from error


import_option = click.option(
    "--import", "modules", multiple=True, metavar="MODULE", is_eager=True, expose_value=False,
    callback=import_modules, help="Import a module that adds layer types; repeatable.",
)  # fmt: skip


def parse_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``data=1,3,224,224`` options as a mapping.

    Raises:
        click.UsageError: an option of another form, or a name given twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given:
        name, _, sizes = text.partition("=")
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            raise click.UsageError(f"--input {text}: write it as NAME=1,3,224,224.") from None
        if not name or any(size < 1 for size in shape):
            raise click.UsageError(f"--input {text}: needs a name and positive sizes.")
        if name in shapes:
            raise click.UsageError(f"--input {text}: '{name}' is given twice.")
        shapes[name] = shape
    return shapes


def parse_numbers(text: str, what: str, least: int = 1) -> list[int]:
    """``1,3`` as integers.

    Raises:
        click.UsageError: something else than integers of at least ``least``, or none.
    """
    try:
        numbers = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise click.UsageError(
            f"{what} '{text}': write integers of {least} or more, separated by commas."
        )
    return numbers


def parse_floats(text: str, what: str) -> list[float]:
    """``104.5,117`` as floats; an empty text gives none.

    Raises:
        click.UsageError: something else than finite numbers.
    """
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise click.UsageError(f"{what} '{text}': write numbers separated by commas.")
    return numbers


floor_option = click.option(
    "--floor", metavar="N|auto",
    help="Least rank per group of a rule; auto, for evbmf by default: the channel block.",
)  # fmt: skip


def least_rank(text: str | None, rule: str) -> int:
    """The number of ``--floor``: without it the machine's channel block for evbmf, else 0.

    Raises:
        BridgeError: neither a positive integer nor auto or none.
    """
    if text is None:
        return align_block("auto") if rule == "evbmf" else 0
    if text not in ("auto", "none") and (not text.isdigit() or int(text) < 1):
        raise BridgeError(f"--floor {text}: give a positive integer, auto or none.")
    return align_block(text)


def align_block(text: str | None) -> int:
    """The channel block of ``--align``: auto asks the machine, none (or nothing) is 0.

    Raises:
        BridgeError: neither of them nor a positive integer.
    """
    if text is None or text == "none":
        return 0
    if text == "auto":
        from caffe_bridge.bench import machine_info

        return machine_info().channel_block
    if not text.isdigit() or int(text) < 1:
        raise BridgeError(f"--align {text}: give a positive integer, auto or none.")
    return int(text)


def check_output(path: str, *sources: str) -> None:
    """Refuse, before any work, a file that cannot be written or that an input lies in.

    Raises:
        BridgeError: its folder does not exist, it is a folder, or it is one of ``sources``.
    """
    target = Path(path)
    if target.is_dir():
        raise BridgeError(f"{path}: is a folder; give the name of a file to write.")
    if not target.absolute().parent.is_dir():
        raise BridgeError(f"{path}: its folder does not exist; make it first.")
    for source in sources:
        if target.exists() and Path(source).exists() and target.samefile(source):
            raise BridgeError(f"{path}: would overwrite the input; give another name.")


def refuse_given(why: str, *options: str) -> None:
    """Refuse options of the running command that were given and do nothing.

    Raises:
        click.UsageError: names the first of them and ``why`` it has no effect.
    """
    context = click.get_current_context()
    for option in options:
        if context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            name = next(p.opts[0] for p in context.command.params if p.name == option)
            raise click.UsageError(f"{name} has no effect {why}.")


def check_folder(folder: str, names: Iterable[str], *sources: str) -> None:
    """Refuse, before any work, a folder in which a file to write would replace an input.

    Raises:
        BridgeError: one of the files ``names`` in it is one of ``sources``.
    """
    for target in (Path(folder, name) for name in names):
        for source in sources:
            if target.exists() and Path(source).exists() and target.samefile(source):
                raise BridgeError(f"{target}: would overwrite the input; give another folder.")


def require_onnx(path: str) -> Path:
    """The path of an ONNX file that at least is no other known thing.

    Raises:
        SchemaError: missing, empty, a Git-LFS pointer, a web page or text.
    """
    found = require_file(path, "ONNX")
    with found.open("rb") as stream:
        head = stream.read(512)
    refuse_impostor(found, head, "ONNX model")
    if looks_like_text(head):
        raise SchemaError(f"{path}: is a text file, expected an ONNX model; give the .onnx file.")
    return found


def warn(message: str) -> None:
    """Print a warning on standard error."""
    click.echo(f"warning: {message}", err=True)


def console() -> Console:
    """Standard output through rich; tables keep their full width when it is no terminal."""
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    return Console(highlight=False, markup=False, width=width)


def print_json(value: Any) -> None:
    """Print a value as indented JSON; numbers that are not finite become null."""
    click.echo(json.dumps(strict_json(value), indent=2))


def human(count: float | None) -> str:
    """A count with a unit: 60.97 M."""
    if count is None:
        return "?"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= limit:
            return f"{count / limit:.2f} {unit}"
    return f"{count:g}"
