"""What an experiment's numbers are compared with: the paper, the other force, the other sign."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from caffe_bridge.experiment.runs import plain
from caffe_bridge.experiment.summary import (
    Rows,
    dense_rows,
    first_seed_rows,
    tuned_rows,
    variant_title,
)

#: Kind of force by its type -> the paper's name.
PAPER_NAMES = {"Constant": "L1 force (Constant)", "Degradation": "L2 force (Degradation)"}
Points = Sequence[tuple[float, float]]


def _dense(document: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The row of a run, of the kept strength of a kind, or of the first kept force ("force")."""
    for row in dense_rows(document):
        kept = row["kind"] and row["kept"] and name in (row["kind"], "force")
        if row["name"] == name or kept:
            return row
    return None


def ours(document: dict[str, Any], key: str) -> str:
    """Our number beside one of the paper's.

    Args:
        document: results.json.
        key: ``accuracy:``, ``error:``, ``ratio:`` or ``ranks:`` and a run (baseline, control) or
            the kind of a kept force or "force"; ``tuned:`` and a low-rank net; "" for none.
    """
    what, _, name = key.partition(":")
    if not key:
        return ""
    if what == "tuned":
        found = {row["name"]: row["after"][0] for row in tuned_rows(document)}
        return f"{found[name]:.2%}" if name in found else "not run"
    row = _dense(document, name)
    if row is None:
        return "not run"
    if what == "ranks":
        return " ".join(str(ranks[0]) for ranks in row["ranks"].values())
    values = {"accuracy": row["accuracy"], "error": 1 - row["accuracy"], "ratio": row["ratio"]}
    return f"{values[what]:.2%}"


def paper_table(document: dict[str, Any]) -> tuple[list[str], Rows]:
    """The paper's numbers beside ours."""
    rows = [
        [row["what"], row["value"], ours(document, row.get("ours", "")), row["source"]]
        for row in document["experiment"]["paper"]
    ]
    return ["what", "paper", "ours", "source of the paper's number"], rows


def _between(points: Points, ratio: float) -> float | None:
    """Accuracy at a ratio on the line through points; None outside of them."""
    ordered = sorted(points)
    for (x, y), (second, other) in pairwise(ordered):
        if x <= ratio <= second:
            return y if second == x else y + (other - y) * (ratio - x) / (second - x)
    return None


def _curve(document: dict[str, Any], force_type: str) -> list[tuple[float, float]]:
    """(ratio, accuracy) of a type's lasting, fixed, attracting forces, first seed, with control."""
    tables, results = document["results"]["ranks"]["tables"], document["results"]
    seed = document["seeds"][0]
    keys = [
        f"{run['name']}_s{seed}"
        for run in document["runs"]
        if run["name"] == "control"
        or (
            run["solver"].get("force_type") == force_type
            and run["force_decay"] > 0
            and not {"force_decay_type", "force_iter"} & set(run["solver"])
        )
    ]
    return [(tables[key]["ratio"], results[key]["accuracy"]) for key in keys]


def forces_table(document: dict[str, Any]) -> tuple[list[str], Rows]:
    """L1 against L2 force: accuracy of both at the same mean rank ratio.

    Each strength of one is compared with the line between the two nearest strengths of the other
    (the control is strength 0 of both); ratios that only one reaches are left out.
    """
    first, second = (_curve(document, kind) for kind in PAPER_NAMES)
    head = ["mean rank ratio", *PAPER_NAMES.values(), "L1 - L2, points"]
    rows: Rows = []
    if len(first) < 2 or len(second) < 2:
        return head, rows
    # The first point of both is the control.
    for ratio in sorted({x for x, _ in (*first[1:], *second[1:])}, reverse=True):
        a, b = _between(first, ratio), _between(second, ratio)
        if a is not None and b is not None:
            rows.append([f"{ratio:.1%}", f"{a:.2%}", f"{b:.2%}", f"{100 * (a - b):+.2f}"])
    return head, rows


def discrimination_table(document: dict[str, Any]) -> tuple[list[str], Rows]:
    """Negative strengths, which push filters apart, beside the control."""
    found = first_seed_rows(document)
    rows = [row for row in found.values() if row["force_decay"] < 0]
    head = ["net, first seed", "accuracy", "against control, points", "mean rank ratio"]
    if not rows:
        return head, []
    control = found["control"]
    return head, [
        [
            row["name"].replace("_", " "), f"{row['accuracy']:.2%}",
            f"{100 * (row['accuracy'] - control['accuracy']):+.2f}", f"{row['ratio']:.2%}",
        ]
        for row in (control, *rows)
    ]  # fmt: skip


def sparse_results(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Results of the sparsified nets by the low-rank net that each started from."""
    seed = document["seeds"][0]
    keys = {name: f"sparse_{plain(name)}_s{seed}" for name in document["variants"]}
    results = document["results"]
    return {name: results[key] for name, key in keys.items() if key in results}


def zero_shares(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Share of zeros by layer of each sparsified net; all lie in zero rows or columns."""
    return {
        variant_title(name): {row["layer"]: row["element"] for row in found["rows"]}
        for name, found in sparse_results(document).items()
    }


def sparse_table(document: dict[str, Any]) -> tuple[list[str], Rows]:
    """Sparsified low-rank nets: accuracy after each step, and what is left of the weights."""
    head = ["from", "low rank", "group lasso", "zeros set", "fine-tuned with zeros",
            "weights", "without zeros"]  # fmt: skip
    rows = []
    for name, found in sparse_results(document).items():
        start = document["results"][f"finetune_{plain(name)}_s{document['seeds'][0]}"]
        values = (start["accuracy"], found["lasso"], found["pruned"], found["accuracy"])
        sizes = (f"{size:,}" for size in found["size"])
        rows.append([variant_title(name), *(f"{value:.2%}" for value in values), *sizes])
    return head, rows


def zeros_table(document: dict[str, Any]) -> tuple[list[str], Rows]:
    """Zeros by layer: all, rows, columns, and what leaving these out gives."""
    head = ["from", "layer", "weights", "zero", "zero rows", "zero columns", "theoretical"]
    rows = []
    for name, found in sparse_results(document).items():
        for row in found["rows"]:
            left = (1 - row["row"]) * (1 - row["column"])
            shares = (f"{row[kind]:.1%}" for kind in ("element", "row", "column"))
            rows.append([variant_title(name), row["layer"], f"{row['weights']:,}", *shares,
                         f"{1 / left:.2f}x" if left else "all zero"])  # fmt: skip
    return head, rows


def comparisons(document: dict[str, Any]) -> list[tuple[str, list[str], Rows]]:
    """Title, head and cells of every comparison; one line says so where nothing was run."""
    made = [
        ("L1 against L2 force at the same mean rank ratio", *forces_table(document)),
        ("Discrimination: filters pushed apart (negative force_decay)",
         *discrimination_table(document)),
        ("Sparsified low-rank nets (Figure 8)", *sparse_table(document)),
        ("Zeros of the sparsified nets by layer", *zeros_table(document)),
        ("The paper's numbers", *paper_table(document)),
    ]  # fmt: skip
    return [
        (title, head, rows) if rows else (title, ["state"], [["not run"]])
        for title, head, rows in made
    ]
