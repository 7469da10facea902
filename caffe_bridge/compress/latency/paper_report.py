"""The paper's AlexNet tables and ours side by side: JSON, Markdown and terminal tables."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from caffe_bridge.bench import machine_info
from caffe_bridge.compress.latency.paper import REORDERS, TABLES, PaperBench, PaperRow

SCHEMA_VERSION = 1
#: What stands where the paper's number is not known.
NOT_FOUND = "not found"
HEAD = ("net", "layer", "method", "rank", "ms before", "ms after", "measured", "theoretical",
        "% of it", "paper CPU", "paper GPU", "paper theory")  # fmt: skip
_TEXT = ("net", "layer", "method")
_PERCENT = 100.0


def run_paper(
    table: str,
    *,
    batches: Sequence[int] = (1, 32),
    threads: Sequence[int] = (1, 2),
    block: int = 16,
    device: str = "cpu",
    seconds: float = 6.0,
    progress: Callable[[str], None] | None = None,
    export_for: str = "portable",
) -> dict[str, Any]:
    """Measure a table of the paper for all batch sizes and threads.

    Args:
        table: "table4" or "table6".
        batches: images of one run.
        threads: threads of one operator.
        block: channel block for the rounded ranks; 0 leaves them out.
        device: "cpu" or "cuda".
        seconds: of measuring, for each net, batch and thread count.
        progress: called with a line for every measurement.
        export_for: the target of the ONNX files.

    Returns:
        What :func:`caffe_bridge.cli.common.print_json` can print; ``rows`` are
        :class:`~caffe_bridge.compress.latency.paper.PaperRow` as objects, with ``share``, measured
        over theoretical.

    Raises:
        PlanError: unknown table.
    """
    say = progress or (lambda _text: None)
    rows: list[PaperRow] = []
    with tempfile.TemporaryDirectory(prefix="caffe-bridge-paper-") as folder:
        bench = PaperBench(table, Path(folder), block, device, seconds, export_for)
        say(f"{table}: {len(bench.paths)} nets are exported")
        for batch in batches:
            for count in threads:
                say(f"batch {batch}, {count} thread(s)")
                rows += bench.measure(batch, count)
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "schema_version": SCHEMA_VERSION,
        "table": table,
        "created": now.isoformat(timespec="seconds"),
        "device": device,
        "block": block,
        "machine": asdict(machine_info()),
        "rows": [{**asdict(row), "share": row.share} for row in rows],
        "paper": [asdict(net) for net in TABLES[table]],
    }


def _times(value: float | None, missing: str = "") -> str:
    return missing if value is None else f"{value:.2f}x"


def _cells(row: dict[str, Any]) -> list[str]:
    missing = "" if row["layer"] == REORDERS else NOT_FOUND
    share = row["share"]
    return [
        row["net"], row["layer"], row["method"], str(row["rank"] or ""),
        f"{row['before_ms']:.3f}", f"{row['after_ms']:.3f}", _times(row["measured"]),
        _times(row["theoretical"]), "" if share is None else f"{share * _PERCENT:.0f}",
        *(_times(row[name], missing) for name in ("paper_cpu", "paper_gpu", "paper_theoretical")),
    ]  # fmt: skip


def blocks(result: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Title and rows of text for every batch size and thread count."""
    made: dict[tuple[int, int], list[list[str]]] = {}
    for row in result["rows"]:
        made.setdefault((row["batch"], row["threads"]), []).append(_cells(row))
    return [
        (f"{result['table']}: batch {batch}, {threads} thread(s)", rows)
        for (batch, threads), rows in made.items()
    ]


def references(result: dict[str, Any]) -> list[list[str]]:
    """Rows of the paper whose ranks are not known: name, error and speed-ups by layer."""
    return [
        [net["name"], net["error"]]
        + [f"{layer} {_times(value, NOT_FOUND)}" for layer, value in net["cpu"].items()]
        for net in result["paper"]
        if not net["ranks"]
    ]


def where(result: dict[str, Any]) -> str:
    """One line: on what the times were measured, and how to read them."""
    machine = result["machine"]
    load = machine["load_average"][0] if machine["load_average"] else "?"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, load {load}, onnxruntime "
        f"{machine['versions']['onnxruntime']}, device {result['device']}, spinning off, nets in "
        "turn; layers from the profile of the whole net, theoretical = multiply-accumulates at "
        "the measured rank. The paper's batch and machine: not found."
    )


def paper_tables(result: dict[str, Any]) -> list[Table]:
    """Tables for the terminal."""
    made = []
    for title, rows in blocks(result):
        table = Table(title=title, box=None)
        for name in HEAD:
            table.add_column(name, justify="left" if name in _TEXT else "right")
        for cells in rows:
            table.add_row(*cells)
        made.append(table)
    return made


def paper_markdown(result: dict[str, Any]) -> str:
    """The same as Markdown."""
    lines: list[str] = []
    for title, rows in blocks(result):
        lines += [f"### {title}", "", _line(HEAD), _line(["---"] * len(HEAD))]
        lines += [*(_line(cells) for cells in rows), ""]
    for cells in references(result):
        lines.append(f"* paper, ranks not found: {', '.join(cells)}")
    return "\n".join([*lines, "", where(result), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
