"""A report as one HTML page and as Markdown, and the results file that it is made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from caffe_bridge.errors import SchemaError
from caffe_bridge.files import atomic_write, require_file

RESULTS = "results.json"
#: Version of the form of results.json.
VERSION = 2


def load_results(path: Path) -> dict[str, Any]:
    """Read a results.json.

    Raises:
        SchemaError: missing, no JSON, or of another version.
    """
    require_file(path, "results")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SchemaError(f"{path}: is not JSON ({error}).") from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise SchemaError(
            f"{path}: is no results file of version {VERSION}; run 'caffe-bridge reproduce' again."
        )
    return document


@dataclass(frozen=True)
class Page:
    """What stands in a report.

    Attributes:
        title: of the page.
        facts: how it was run, a sentence each.
        verdicts: what the numbers say, a sentence each.
        tables: title, head and rows of cells.
        figures: title and SVG.
        note: last line of the Markdown.
    """

    title: str
    facts: list[str]
    verdicts: list[str]
    tables: list[tuple[str, list[str], list[list[str]]]]
    figures: list[tuple[str, str]]
    note: str = ""


def write_page(folder: Path, page: Page) -> list[Path]:
    """Write report.html, report.md and figures/*.svg into a folder; returns the first two."""
    (folder / "figures").mkdir(exist_ok=True)
    for number, (_, svg) in enumerate(page.figures, 1):
        with atomic_write(folder / "figures" / f"{number}.svg") as stream:
            stream.write(svg.encode())
    template = resources.files("caffe_bridge.experiment").joinpath("report.html.j2")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(template.read_text("utf-8")).render(
        title=page.title, facts=page.facts, verdicts=page.verdicts, tables=page.tables,
        figures=[(title, markupsafe.Markup(svg)) for title, svg in page.figures],
    )  # fmt: skip
    made = [folder / "report.html", folder / "report.md"]
    for path, text in zip(made, (html, _markdown(page)), strict=True):
        with atomic_write(path) as stream:
            stream.write(text.encode())
    return made


def _markdown(page: Page) -> str:
    lines = [f"# {page.title}", ""]
    lines += [f"- {fact}" for fact in (*page.facts, *page.verdicts)]
    for title, head, rows in page.tables:
        lines += ["", f"## {title}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "## Figures", ""]
    lines += [
        f"![{title}](figures/{number}.svg)" for number, (title, _) in enumerate(page.figures, 1)
    ]
    return "\n".join([*lines, *(("", page.note) if page.note else ()), ""])
