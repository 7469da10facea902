"""The tables of an experiment, from the numbers in its results.json alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from caffe_bridge.experiment.runs import plain
from caffe_bridge.experiment.spec import STARTS, Goal

Rows = list[list[str]]
#: Layers that get a column each; the ranks of more stand in one cell.
_COLUMNS = 6


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def dense_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each dense net: accuracy and mean rank ratio over its seeds, ranks of each.

    ``loss`` is the baseline's accuracy less this one's; ``drop`` the relative fall of the mean rank
    ratio against the baseline.
    """
    tables, results = document["results"]["ranks"]["tables"], document["results"]
    rows: list[dict[str, Any]] = []
    for run in document["runs"]:
        keys = [f"{run['name']}_s{seed}" for seed in run["seeds"]]
        accuracy, accuracy_spread = spread([results[key]["accuracy"] for key in keys])
        ratio, ratio_spread = spread([tables[key]["ratio"] for key in keys])
        layers = list(tables[keys[0]]["layers"])
        first = rows[0] if rows else {"accuracy": accuracy, "ratio": ratio}
        rows.append({
            **run, "accuracy": accuracy, "accuracy_spread": accuracy_spread, "ratio": ratio,
            "ratio_spread": ratio_spread, "loss": first["accuracy"] - accuracy,
            "drop": 1 - ratio / first["ratio"],
            "ranks": {x: [tables[key]["layers"][x][0] for key in keys] for x in layers},
            "full": {x: tables[keys[0]]["layers"][x][1] for x in layers},
        })  # fmt: skip
    return rows


def first_seed_rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows by name, of the first seed alone: strengths that are not kept have no other."""
    runs = [{**run, "seeds": run["seeds"][:1]} for run in document["runs"]]
    return {row["name"]: row for row in dense_rows({**document, "runs": runs})}


def goal_of(document: dict[str, Any]) -> Goal:
    """The goal of the experiment."""
    return Goal(**document["experiment"]["goal"])


def meets(row: dict[str, Any], start: dict[str, Any], goal: Goal) -> bool:
    """Whether a force net's row keeps the accuracy of ``start`` at ranks that are low enough."""
    fall = start["ratio"] - row["ratio"]
    enough = fall if goal.points else fall / start["ratio"]
    kept = start["accuracy"] - row["accuracy"] <= goal.within + 1e-9
    return bool(kept and enough >= goal.lower - 1e-9)


def _points(value: tuple[float, float], count: int) -> str:
    mean, deviation = value
    return f"{mean:.2%}" + (f" ± {deviation * 100:.2f}" if count > 1 else "")


def dense_table(document: dict[str, Any]) -> tuple[list[str], Rows]:
    """Head and cells of the table of dense nets."""
    rows = dense_rows(document)
    layers = list(rows[0]["full"])
    full = rows[0]["full"]
    wide = len(layers) > _COLUMNS
    columns = [f"rank {x} (of {full[x]})" for x in layers]
    if wide:
        columns = [f"ranks of {len(layers)} layers, first seed"]
    head = ["net", "seeds", "accuracy", "against baseline, points", *columns,
            "mean rank ratio", "lower by"]  # fmt: skip
    cells = []
    for row in rows:
        count = len(row["seeds"])
        cells.append([
            row["name"].replace("_", " "), str(count),
            _points((row["accuracy"], row["accuracy_spread"]), count),
            f"{0 - row['loss'] * 100:+.2f}",
            *([" ".join(str(row["ranks"][x][0]) for x in layers)] if wide else
              ["/".join(map(str, row["ranks"][x])) for x in layers]),
            _points((row["ratio"], row["ratio_spread"]), count), f"{row['drop']:.0%}",
        ])  # fmt: skip
    return head, cells


def tuned_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each low-rank net: accuracy as decomposed and after fine-tuning."""
    results = document["results"]
    rows: list[dict[str, Any]] = []
    for name in document["variants"]:
        stem = plain(name)
        nets = [results[f"decompose_s{seed}"]["nets"][name] for seed in document["seeds"]]
        tuned = [results[f"finetune_{stem}_s{seed}"] for seed in document["seeds"]]
        rows.append({
            "name": name, "ranks": [net["ranks"] for net in nets],
            "parameters": nets[0]["parameters"],
            "before": spread([net["accuracy"] for net in nets]),
            "after": spread([one["accuracy"] for one in tuned]),
        })  # fmt: skip
    return rows


def variant_title(name: str) -> str:
    """What a low-rank net is, in words."""
    start, _, kind = name.partition("@")
    if kind:
        return f"{start} at the ranks of {kind}"
    return f"{start}, same energy"


def tuned_table(document: dict[str, Any]) -> tuple[list[str], Rows]:
    """Head and cells of the table of low-rank nets."""
    count = len(document["seeds"])
    head = ["low-rank net", "ranks by seed", "parameters", "decomposed", "fine-tuned"]
    cells = [
        [variant_title(row["name"]),
         "; ".join("/".join(str(r) for r in ranks.values()) for ranks in row["ranks"]),
         f"{row['parameters']:,}", _points(row["before"], count), _points(row["after"], count)]
        for row in tuned_rows(document)
    ]  # fmt: skip
    return head, cells


def forms_table(document: dict[str, Any]) -> tuple[list[str], Rows]:
    """Head and cells of the table of the fastest forms."""
    nets = document["results"]["planned"]["nets"]
    layers = list(next(iter(nets.values()))["forms"])
    if len(layers) > _COLUMNS:
        columns = [f"forms of {len(layers)} layers"]
        told = {name: [_counted(list(net["forms"].values()))] for name, net in nets.items()}
    else:
        columns = layers
        told = {name: [net["forms"][x] for x in layers] for name, net in nets.items()}
    cells = [
        [variant_title(name), *told[name], f"{net['accuracy']:.2%}"] for name, net in nets.items()
    ]
    return ["low-rank net, first seed", *columns, "accuracy"], cells


def _counted(forms: list[str]) -> str:
    return ", ".join(f"{forms.count(form)} {form}" for form in dict.fromkeys(forms))


def bench_table(document: dict[str, Any]) -> tuple[list[str], Rows]:
    """Head and cells of the table of measured times."""
    head = ["model", "median ms", "p10", "p90", "speed-up", "95 % interval", "unstable", "file kB"]
    cells = []
    for model in document["results"]["bench"]["bench"]["models"]:
        gain = model["speed_up"]
        cells.append([
            model["name"], *(f"{model['stats'][x]:.3f}" for x in ("median_ms", "p10_ms", "p90_ms")),
            f"{gain['ratio']:.2f}x" if gain else "",
            f"{gain['low']:.2f} to {gain['high']:.2f}" if gain else "",
            "yes" if model["stats"]["unstable"] else "no",
            f"{model['file_bytes'] / 1000:.1f}",
        ])  # fmt: skip
    return head, cells


def _goal_lines(document: dict[str, Any]) -> list[str]:
    goal, rows = goal_of(document), dense_rows(document)
    alone = first_seed_rows(document)[goal.against]
    mean = next(row for row in rows if row["name"] == goal.against)
    told = []
    for row in rows:
        if not row["kind"]:
            continue
        start = alone if len(row["seeds"]) == 1 else mean
        met = meets(row, start, goal)
        if not (row["kept"] or met):
            continue
        count = len(row["seeds"])
        gap = (row["accuracy"] - start["accuracy"]) * 100
        told.append(
            f"{row['kind']} {row['force_decay']:g}: mean rank ratio {row['ratio']:.1%} against "
            f"{start['ratio']:.1%} of the {goal.against} ({1 - row['ratio'] / start['ratio']:.0%} "
            f"lower) at {gap:+.2f} points; the goal is {'reached' if met else 'not reached'} "
            f"({goal.words()}; {f'mean of {count} seeds' if count > 1 else 'one seed'})."
        )
    if not any("is reached" in line for line in told):
        told.append(f"No force net reached the goal: {goal.words()}.")
    return told


def _gap_line(name: str, other: str, after: dict[str, tuple[float, float]], count: int) -> str:
    (mean, deviation), (second, second_deviation) = after[name], after[f"{other}@{name}"]
    gap, noise = (mean - second) * 100, max(deviation, second_deviation) * 100
    if count < 2:
        word = "one seed, so no spread is known and nothing is concluded"
    elif abs(gap) <= noise:
        word = f"no more than the spread over {count} seeds ({noise:.2f})"
    else:
        side = "better" if gap > 0 else "worse"
        word = f"{side} by more than the spread over {count} seeds ({noise:.2f})"
    return (
        f"Fine-tuning from {name} against from the {other} at the same ranks: {gap:+.2f} "
        f"points, {word}."
    )


def verdicts(document: dict[str, Any]) -> list[str]:
    """What the numbers say about the paper's claims, one sentence each."""
    told = []
    if any(run["kept"] and run["kind"] for run in document["runs"]):
        told.append(
            "The kept strengths were chosen by their accuracy on the test set, which flatters them."
        )
    told += _goal_lines(document)
    after = {row["name"]: row["after"] for row in tuned_rows(document)}
    count = len(document["seeds"])
    return told + [
        _gap_line(name, other, after, count)
        for name in after
        for other in STARTS
        if f"{other}@{name}" in after
    ]
