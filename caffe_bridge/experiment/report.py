"""An experiment's report: every table and figure from results.json, as HTML and as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from caffe_bridge.bench import BenchResult, conditions, from_json
from caffe_bridge.errors import SchemaError
from caffe_bridge.experiment.comparisons import comparisons, zero_shares
from caffe_bridge.experiment.figures import (
    BLUE,
    COLOURS,
    DARK,
    curves,
    latency_bars,
    rank_bars,
    trade_off,
    zero_bars,
)
from caffe_bridge.experiment.page import RESULTS, Page, write_page
from caffe_bridge.experiment.runs import PASSED_OVER, tuned_key
from caffe_bridge.experiment.speed import SPEED, speed_page
from caffe_bridge.experiment.summary import (
    Rows,
    bench_table,
    dense_rows,
    dense_table,
    forms_table,
    goal_of,
    tuned_table,
    variant_title,
    verdicts,
)


def _rank_figure(document: dict[str, Any]) -> str:
    tables = {
        row["name"].replace("_", " "): {
            layer: {"rank": ranks[0], "full": row["full"][layer]}
            for layer, ranks in row["ranks"].items()
        }
        for row in dense_rows(document)
        if row["kept"]
    }
    return rank_bars(tables, document["experiment"]["energy"])


def _paper_ranks_figure(document: dict[str, Any]) -> list[tuple[str, str]]:
    nets = dict(document["experiment"].get("paper_ranks", {}))
    if not nets:
        return []
    full = nets.pop("full")
    layers = [str(number) for number in range(1, len(full) + 1)]
    tables = {
        name: {
            layer: {"rank": rank, "full": most}
            for layer, rank, most in zip(layers, ranks, full, strict=True)
        }
        for name, ranks in nets.items()
    }
    drawn = rank_bars(tables, document["experiment"]["energy"])
    return [("The same layers in the paper (Figure 5)", drawn)]


def _trade_off_figure(document: dict[str, Any]) -> str:
    # One seed throughout: points of other seeds exist for the kept strengths only.
    tables, results = document["results"]["ranks"]["tables"], document["results"]
    seed = document["seeds"][0]

    def point(run: dict[str, Any], label: str) -> tuple[float, float, str]:
        key = f"{run['name']}_s{seed}"
        return tables[key]["ratio"], results[key]["accuracy"], label

    runs = document["runs"]
    series = [
        ("baseline", [point(runs[0], "")], BLUE),
        ("control", [point(runs[1], "")], DARK),
    ]
    kinds = list(dict.fromkeys(run["kind"] for run in runs if run["kind"]))
    for kind, colour in zip(kinds, COLOURS[2:], strict=False):
        points = [point(r, f"{r['force_decay']:g}") for r in runs if r["kind"] == kind]
        series.append((kind, points, colour))
    paper = document["experiment"].get("paper_points", {})
    if paper:
        points = [(ratio, accuracy, name) for name, (ratio, accuracy) in paper.items()]
        series.append(("paper", points, COLOURS[5]))
    goal = goal_of(document)
    floor = results[f"{goal.against}_s{seed}"]["accuracy"] - goal.within
    return trade_off(series, floor)


def _mean_curve(document: dict[str, Any], name: str) -> list[list[float]]:
    """Test accuracy over the iterations of fine-tuning, mean of the seeds; 0 is as decomposed."""
    results, curves_of = document["results"], []
    for seed in document["seeds"]:
        start = results[f"decompose_s{seed}"]["nets"][name]["accuracy"]
        scores = results[tuned_key(name, seed)]["accuracies"]
        curves_of.append([[0, start], *(p for p in scores if p[0])])
    return [
        [points[0][0], sum(p[1] for p in points) / len(points)]
        for points in zip(*curves_of, strict=False)
    ]


def _tuning_figures(document: dict[str, Any]) -> list[tuple[str, str]]:
    made = []
    for name in document["variants"]:
        if f"baseline@{name}" not in document["variants"]:
            continue
        starts = ((f"baseline@{name}", BLUE), (f"control@{name}", DARK), (name, COLOURS[2]))
        series = []
        for one, colour in starts:
            title = f"from the {one.partition('@')[0]}" if "@" in one else f"from the {name} net"
            series.append((title, _mean_curve(document, one), colour))
        made.append((f"{name}, the same ranks", curves(series, "test accuracy, %", percent=True)))
    return made


def _loss_figure(document: dict[str, Any]) -> str:
    seed, results = document["seeds"][0], document["results"]
    kept = [run for run in document["runs"][1:] if run["kept"]]
    series = [
        (run["name"].replace("_", " "), results[f"{run['name']}_s{seed}"]["losses"], colour)
        for run, colour in zip(kept, COLOURS[1:], strict=False)
    ]
    return curves(series, "training loss", log=True)


def figures(document: dict[str, Any]) -> list[tuple[str, str]]:
    """(title, SVG) of every figure."""
    made = [
        ("Ranks of the forced layers (Figure 5 of the paper)", _rank_figure(document)),
        *_paper_ranks_figure(document),
        ("Accuracy against mean rank ratio (Figure 6)", _trade_off_figure(document)),
        ("Training loss with and without force", _loss_figure(document)),
    ]
    made += [(f"Fine-tuning, {title} (Figure 7)", svg) for title, svg in _tuning_figures(document)]
    if shares := zero_shares(document):
        made.append(("Zeros of sparsified low-rank nets (Figure 8)", zero_bars(shares)))
    return [*made, ("Measured in onnxruntime", latency_bars(_bench(document)))]


def _bench(document: dict[str, Any]) -> BenchResult:
    return from_json(json.dumps(document["results"]["bench"]["bench"]), RESULTS)


def _facts(document: dict[str, Any]) -> list[str]:
    e, settings = document["experiment"], document["settings"]
    seconds = document["seconds"]
    lengths = ", ".join(f"{part} {n}" for part, n in e["iterations"].items())
    start = "trained here" if not settings["weights"] else "given weights, the same for all seeds"
    taken = [key for key, found in document["results"].items() if found.get("adopted")]
    told = [
        "Trained by 'caffe-bridge train' and taken over, their time not counted: "
        f"{', '.join(taken)}."
    ] if taken else []  # fmt: skip
    return [
        f"Written by caffe_bridge {settings['version']}; profile {settings['profile']}.",
        f"Seeds {', '.join(map(str, document['seeds']))}; iterations: {lengths}; baseline: {start}."
        f" Ranks keep {e['energy']:.0%} of the weights' squared norm.",
        *_special(e, document["seeds"], bool(settings["weights"])),
        f"{sum(seconds.values()) / 60:.1f} minutes in {len(seconds)} stages, added up; training on "
        f"{settings['device']}.",
        *(
            f"Solver of {part}, steps as of {e['full'][part]} iterations: {_fields(fields)}."
            for part, fields in e["schedule"].items()
        ),
        *told,
        conditions(_bench(document)),
    ]


def _special(experiment: dict[str, Any], seeds: list[int], given: bool) -> list[str]:
    # Files written before these entries existed do not hold them.
    told = []
    if count := experiment.get("dense_seeds", 0):
        first = ", ".join(map(str, seeds[:count]))
        told.append(f"Dense nets were trained with seed {first} only; other seeds fine-tune them.")
    if len(seeds) > 1 and (given or count):
        told.append(
            f"Seeds that share their weights begin {PASSED_OVER} batches of the data apart."
        )
    if batch := experiment.get("batch", 0):
        told.append(f"Training batches of {batch} pictures instead of the recipe's.")
    return told


def _fields(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def _tables(document: dict[str, Any]) -> list[tuple[str, list[str], Rows]]:
    return [
        ("Dense nets", *dense_table(document)),
        ("Low-rank nets", *tuned_table(document)),
        ("Form of every layer that the planner picked", *forms_table(document)),
        ("Measured times", *bench_table(document)),
        *comparisons(document),
    ]


def _page(document: dict[str, Any]) -> Page:
    if document.get("kind") == SPEED:
        return speed_page(document)
    names = ", ".join(variant_title(name) for name in document["variants"])
    return Page(
        document["experiment"]["title"], _facts(document), verdicts(document), _tables(document),
        figures(document), f"Low-rank nets: {names}.",
    )  # fmt: skip


def write_report(folder: Path, document: dict[str, Any]) -> list[Path]:
    """Write report.html, report.md and figures/*.svg into a folder; returns the first two.

    Raises:
        SchemaError: the results lack an entry.
    """
    try:
        page = _page(document)
    except (LookupError, TypeError, AttributeError, ValueError, StopIteration) as error:
        raise SchemaError(
            f"{folder / RESULTS}: an entry is missing or has the wrong form "
            f"({type(error).__name__}: {error}); run 'caffe-bridge reproduce' again."
        ) from error
    return write_page(folder, page)
