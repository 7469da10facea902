"""A plan as Markdown: what became of every layer, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from caffe_bridge.compress.plan import LayerPlan, Plan

_COLUMNS = (
    "layer", "form", "rank", "energy kept", "norm kept", "error", "theoretical x", "ms before",
    "ms after", "reason",
)  # fmt: skip


def _cells(entry: LayerPlan) -> list[str]:
    norm = None if entry.energy is None else max(entry.energy, 0.0) ** 0.5
    numbers = (entry.energy, norm, entry.error, entry.theoretical_speedup, entry.ms_before,
               entry.ms_after)  # fmt: skip
    rank = entry.rank if isinstance(entry.rank, int) else ", ".join(map(str, entry.rank))
    return [
        entry.layer, entry.method, str(rank or ""),
        *("" if value is None else f"{value:.4g}" for value in numbers), entry.reason,
    ]  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def plan_markdown(plan: Plan, facts: Sequence[tuple[str, str]] = ()) -> str:
    """The plan as Markdown text.

    Args:
        plan: what became of which layer; columns that no layer fills are left out.
        facts: more to tell, as names and values.
    """
    rows = [_cells(entry) for entry in plan.layers]
    used = [i for i in range(len(_COLUMNS)) if i < 2 or any(row[i] for row in rows)]
    lines = [
        "# Low-rank net", "",
        f"From `{plan.net}` and `{plan.weights}`: {len(plan.decomposed())} of {len(rows)} layers "
        "with a weight matrix are replaced.", "",
        _row([_COLUMNS[i] for i in used]),
        "|" + "---|" * len(used),
        *(_row([row[i] for i in used]) for row in rows), "",
        "Error is the relative error of the weight (of the responses where the layer was fitted to "
        "data); theoretical x counts multiply-accumulates and is no time.", "",
        "## Settings", "",
        *(f"- {name}: {_plain(value)}" for name, value in plan.settings.items()),
    ]  # fmt: skip
    if facts:
        lines += ["", "## Result", "", *(f"- {name}: {value}" for name, value in facts)]
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
