"""The report's pictures, as SVG text that stands in the page itself."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from caffe_bridge.bench.report import BenchResult

GREY, BLUE, RED, GREEN = "#c9ced6", "#3b6fb6", "#d1495b", "#4f9d69"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "svg.fonttype": "none", "svg.hashsalt": "caffe_bridge",
}  # fmt: skip


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _axes(width: float = 7.0, height: float = 3.2, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    made = figure.subplots(1, columns, squeeze=False)
    return figure, list(made[0])


def rank_bars(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], energy: float) -> str:
    """Rank of each forced layer: full, baseline, force (the paper's Figure 5)."""
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _axes()
        layers = list(tables["baseline"])
        series = [
            ("full", [tables["baseline"][layer]["full"] for layer in layers], GREY),
            ("baseline", [tables["baseline"][layer]["rank"] for layer in layers], BLUE),
            ("force", [tables["force"][layer]["rank"] for layer in layers], RED),
        ]
        for index, (name, values, colour) in enumerate(series):
            places = [i + (index - 1) * 0.27 for i in range(len(layers))]
            bars = axes.bar(places, values, 0.25, label=name, color=colour)
            axes.bar_label(bars, fontsize=9)
        axes.set_xticks(range(len(layers)), layers)
        axes.set_ylabel(f"rank at energy {energy:g}")
        axes.legend(frameon=False, ncols=3, loc="upper left")
        axes.set_ylim(0, max(series[0][1]) * 1.2)
        return _svg(figure)


def curves(
    series: Sequence[tuple[str, Sequence[Sequence[float]], str]], ylabel: str, log: bool = False,
    percent: bool = False,
) -> str:  # fmt: skip
    """Lines over the iterations."""
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _axes()
        for name, points, colour in series:
            factor = 100.0 if percent else 1.0
            axes.plot([p[0] for p in points], [p[1] * factor for p in points], label=name,
                      color=colour, linewidth=1.6)  # fmt: skip
        if log:
            axes.set_yscale("log")
        axes.set_xlabel("iteration")
        axes.set_ylabel(ylabel)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        return _svg(figure)


def latency_bars(result: BenchResult) -> str:
    """Median run time of each model with its 10th and 90th percentile."""
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _axes(height=0.7 + 0.55 * len(result.models))
        names = [model.name for model in result.models]
        medians = [model.stats.median_ms for model in result.models]
        below = [m.stats.median_ms - m.stats.p10_ms for m in result.models]
        above = [m.stats.p90_ms - m.stats.median_ms for m in result.models]
        colours = [GREY, BLUE, RED, GREEN][: len(names)]
        axes.barh(names, medians, 0.55, xerr=[below, above], color=colours, capsize=3)
        for row, model in enumerate(result.models):
            ratio = f"  {model.speed_up.ratio:.2f}x" if model.speed_up else ""
            axes.annotate(f"{model.stats.median_ms:.3f} ms{ratio}", (model.stats.p90_ms, row),
                          xytext=(8, 0), textcoords="offset points", va="center",
                          fontsize=9)  # fmt: skip
        axes.invert_yaxis()
        axes.set_xlim(0, max(m.stats.p90_ms for m in result.models) * 1.35)
        axes.set_xlabel(f"milliseconds for {result.batch} images, {result.threads} thread(s)")
        return _svg(figure)
