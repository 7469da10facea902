"""What the verbs of net surgery share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffe_bridge.cli.common import (
    check_output,
    input_option,
    json_option,
    parse_shapes,
    print_json,
)
from caffe_bridge.errors import BridgeError, PlanError

if TYPE_CHECKING:
    from caffe_bridge.compress.surgery import Surgery

Shapes = Mapping[str, tuple[int, ...]]


def surgery_arguments(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: NET WEIGHTS OUT_NET OUT_WEIGHTS and the options of all verbs of surgery."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = json_option(input_option(function))
        layer = click.option("--layer", "layers", multiple=True, help=f"Only this {what}.")
        function = layer(function) if what else function
        for name in ("out_weights", "out_net", "weights", "net"):
            function = click.argument(name)(function)
        return function

    return decorate


def finish(
    net: str, weights: str, outputs: tuple[str, str], given: tuple[str, ...], as_json: bool,
    operate: Callable[[Shapes], Surgery],
) -> None:  # fmt: skip
    """Operate, prove that the outputs stay, write both files and report.

    Raises:
        PlanError: nothing changed.
        VerifyError: an output differs.
        BridgeError: the net or the weights are wrong.
    """
    from caffe_bridge.compress.surgery import largest_difference, write_surgery

    for path in outputs:
        check_output(path, net, weights)
    if Path(outputs[0]).absolute() == Path(outputs[1]).absolute():
        raise BridgeError(f"{outputs[0]}: is given for net and weights; give two names.")
    shapes = parse_shapes(given)
    made = operate(shapes)
    if not made.changed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(made.kept.items())[:5])
        raise PlanError(f"{net}: nothing to change{f' ({reasons})' if reasons else ''}.")
    worst = largest_difference(net, weights, made, shapes or None)
    paths = write_surgery(made, *outputs)
    if as_json:
        print_json({
            "changed": made.changed, "kept": made.kept, "worst": worst,
            "net": str(paths[0]), "weights": str(paths[1]),
        })  # fmt: skip
        return
    click.echo(f"changed: {', '.join(made.changed)}")
    for name, reason in made.kept.items():
        click.echo(f"kept: {name}, because {reason}")
    click.echo(f"largest difference of an output on random inputs: {worst:.2g}")
    for written in paths:
        click.echo(f"{written}: {written.stat().st_size:,} bytes")
