"""``caffe-bridge tradeoff``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from caffe_bridge.cli.common import check_output, console, json_option, print_json, verb
from caffe_bridge.errors import PlanError
from caffe_bridge.files import require_file

if TYPE_CHECKING:
    from caffe_bridge.compress.judge import Judge

#: Numbers of a decomposed net's plan, and what they are for the whole net.
_WHOLE = {"net_ms_after": "net_ms_before", "measured_speedup": 1.0, "predicted_error": 0.0}


def _judge(net: str, weights: str, source: str) -> Judge:
    from caffe_bridge.cli.decompose_steps import inputs_from
    from caffe_bridge.compress.judge import Judge
    from caffe_bridge.net import Net

    model = Net(net, "TEST", weights=weights)
    return Judge(model, inputs_from(model, source, 0))


def _judged(path: str, data: Any, judge: Judge) -> dict[str, Any]:
    """A plan's settings, with error and score of the net beside it."""
    from caffe_bridge.net import Net

    folder = Path(path).parent
    stored = [folder / f"lowrank.caffemodel{end}" for end in ("", ".h5")]
    found = next((file for file in stored if file.is_file()), None)
    if not isinstance(data, dict) or "layers" not in data or found is None:
        raise PlanError(
            f"{path}: --judge wants the plan.json of a folder that 'caffe-bridge decompose -o' "
            f"wrote, with lowrank.prototxt and lowrank.caffemodel beside it."
        )
    error, score = judge(Net(folder / "lowrank.prototxt", "TEST", weights=found))
    return {**data.get("settings", {}), "error": error, judge.scored: score}


def _original(entries: list[dict[str, Any]], x: str, judge: Judge) -> list[dict[str, Any]]:
    """The whole net as a point, where the plans say what the horizontal number is for it."""
    known = _WHOLE.get(x)
    value = entries[0].get(known) if isinstance(known, str) else known
    if value is None:
        return []
    return [{"name": "whole", x: value, "error": 0.0, judge.scored: judge.whole}]


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
    caffe-bridge tradeoff 2.0/plan.json --judge net.prototxt w.caffemodel x.npz -o c.svg
    caffe-bridge tradeoff results.json --x ms --y accuracy -o curve.png"""
)
@click.argument("files", nargs=-1, required=True)
@click.option("--x", default="measured_speedup", show_default=True, help="Number to the right.")
@click.option("--y", help="Number upwards; predicted_error, or the score of --judge.")
@click.option("--judge", "judging", nargs=3, metavar="NET WEIGHTS DATA",
              help="Run the plans' nets and NET on an npz or data layers.")  # fmt: skip
@click.option("-o", "--output", required=True, metavar="SVG|PNG|PDF", help="The picture.")
@json_option
def command(
    files: tuple[str, ...], x: str, y: str | None, judging: tuple[str, str, str] | None,
    output: str, as_json: bool,
) -> None:  # fmt: skip
    """Draw what speed costs: one point for each plan or object of a list in FILES.

    A file is a plan (its settings hold the numbers), an object, or a list of objects; an object's
    "name" labels its point and its "series" names the curve. With --judge the numbers of plans are
    "error" (relative, of the net's answers) and "accuracy", or "agreement" with NET where it has no
    such blob; the original is a point too.
    """
    from caffe_bridge.compress.pictures import check_picture, draw_tradeoff

    check_output(output, *files)
    check_picture(output)
    judge = _judge(*judging) if judging else None
    y = y or (judge.scored if judge else "predicted_error")
    entries: list[dict[str, Any]] = []
    for path in files:
        text = require_file(path, "JSON").read_text(encoding="utf-8", errors="replace")
        try:
            data = json.loads(text)
        except ValueError as error:
            raise PlanError(f"{path}: is no valid JSON ({error}); correct it.") from error
        stem = Path(path).stem
        label = (Path(path).parent.name if stem == "plan" else stem) or stem
        for entry in data if isinstance(data, list) else [data]:
            values = _judged(path, entry, judge) if judge else entry
            place = _point(values, path, x, y)
            numbers = values if judge else dict(zip((x, y), place, strict=True))
            named = entry.get("name") or label
            entries.append({**numbers, x: place[0], y: place[1], "name": str(named),
                            "series": str(entry.get("series", ""))})  # fmt: skip
    if judge:
        entries = [{**first, "series": ""} for first in _original(entries, x, judge)] + entries
    series: dict[str, list[tuple[float, float, str]]] = {}
    for entry in entries:
        series.setdefault(entry["series"], []).append((entry[x], entry[y], entry["name"]))
    draw_tradeoff(output, series, x.replace("_", " "), y.replace("_", " "))
    points = [
        {name: entry[name] for name in dict.fromkeys(("name", "series", x, y, "error"))
         if name in entry}
        for entry in entries
    ]  # fmt: skip
    if as_json:
        print_json(points)
        return
    table = Table(box=None)
    for name in ("name", x, y):
        table.add_column(name, justify="left" if name == "name" else "right")
    for point in points:
        table.add_row(point["name"], f"{point[x]:.4g}", f"{point[y]:.4g}")
    console().print(table)
    click.echo(output)
