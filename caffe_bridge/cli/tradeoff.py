"""``caffe-bridge tradeoff``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from caffe_bridge.cli.common import check_output, verb
from caffe_bridge.errors import PlanError
from caffe_bridge.files import require_file


def _point(data: Any, path: str, x: str, y: str) -> tuple[float, float]:
    """Two numbers of a plan (from its settings) or of a flat object."""
    values = {**data, **data.get("settings", {})} if isinstance(data, dict) else {}
    for name in (x, y):
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            known = sorted(k for k, v in values.items() if isinstance(v, (int, float)))
            raise PlanError(
                f"{path}: has no number '{name}'; its numbers are {', '.join(known) or 'none'}."
            )
    return float(values[x]), float(values[y])


@verb(
    """caffe-bridge tradeoff 1.5/plan.json 2.0/plan.json 3.0/plan.json -o curve.svg
    caffe-bridge tradeoff results.json --x ms --y accuracy -o curve.png"""
)
@click.argument("files", nargs=-1, required=True)
@click.option("--x", default="measured_speedup", show_default=True, help="Number to the right.")
@click.option("--y", default="predicted_error", show_default=True, help="Number upwards.")
@click.option("-o", "--output", required=True, metavar="SVG|PNG|PDF", help="The picture.")
def command(files: tuple[str, ...], x: str, y: str, output: str) -> None:
    """Draw what speed costs: one point for each plan or object of a list in FILES.

    A file is a plan (its settings hold the numbers), an object, or a list of objects; an object's
    "name" labels its point and its "series" names the curve.
    """
    from caffe_bridge.compress.pictures import check_picture, draw_tradeoff

    check_output(output, *files)
    check_picture(output)
    series: dict[str, list[tuple[float, float, str]]] = {}
    for path in files:
        text = require_file(path, "JSON").read_text(encoding="utf-8", errors="replace")
        try:
            data = json.loads(text)
        except ValueError as error:
            raise PlanError(f"{path}: is no valid JSON ({error}); correct it.") from error
        for entry in data if isinstance(data, list) else [data]:
            place = _point(entry, path, x, y)
            stem = Path(path).stem
            place_name = Path(path).parent.name if stem == "plan" else stem
            label = str(entry.get("name") or place_name or stem)
            series.setdefault(str(entry.get("series", "")), []).append((*place, label))
    draw_tradeoff(output, series, x.replace("_", " "), y.replace("_", " "))
    click.echo(output)
