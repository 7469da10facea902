"""What the verbs share: examples in the help, parsing of options, output."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console

from caffe_bridge.errors import BridgeError


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
level_option = click.option("--level", default=0, show_default=True, help="Level of the net state.")
stage_option = click.option("--stage", multiple=True, help="Stage of the net state; repeatable.")
input_option = click.option(
    "--input", "inputs", multiple=True, metavar="NAME=N,C,H,W",
    help="Shape of an input blob (also replaces a data layer by an input); repeatable.",
)  # fmt: skip


def parse_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``data=1,3,224,224`` options as a mapping.

    Raises:
        BridgeError: an option of another form.
    """
    shapes = {}
    for text in given:
        name, _, sizes = text.partition("=")
        try:
            shapes[name] = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            raise BridgeError(f"--input {text}: write it as NAME=1,3,224,224.") from None
        if not name or any(size < 1 for size in shapes[name]):
            raise BridgeError(f"--input {text}: needs a name and positive sizes.")
    return shapes


def parse_numbers(text: str | None, what: str) -> list[int]:
    """``1,3`` as integers.

    Raises:
        BridgeError: something else than integers.
    """
    if not text:
        return []
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise BridgeError(f"{what} {text!r}: write integers separated by commas.") from None


def console() -> Console:
    """Standard output through rich; wide when it is no terminal, so that nothing is cut."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=160)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=2))


def human(count: float | None) -> str:
    """A count with a unit: 60.97 M."""
    if count is None:
        return "?"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= limit:
            return f"{count / limit:.2f} {unit}"
    return f"{count:g}"
