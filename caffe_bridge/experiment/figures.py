"""Pictures of the reports, as SVG text that stands in the page itself."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from caffe_bridge.bench.report import BenchResult

GREY, BLUE, RED, GREEN = "#c9ced6", "#3b6fb6", "#d1495b", "#4f9d69"
DARK = "#555555"
#: Colours of series in their order; the first is for what the others are compared with.
COLOURS = (GREY, BLUE, RED, GREEN, "#8a63b3", "#c98b2b", "#2b9aa8")
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


def _grouped(
    axes: Axes, layers: Sequence[str], series: Sequence[tuple[str, Sequence[float]]],
    colours: Sequence[str], **label: Any,
) -> None:  # fmt: skip
    """Bars side by side in a group for each layer, a value above each; and the legend."""
    width = 0.81 / len(series)
    for index, (name, values) in enumerate(series):
        places = [i + (index - (len(series) - 1) / 2) * width for i in range(len(layers))]
        bars = axes.bar(
            places, values, width * 0.93, label=name, color=colours[index % len(colours)]
        )
        axes.bar_label(bars, **label)
    axes.set_xticks(range(len(layers)), layers)
    axes.legend(frameon=False, ncols=len(series), loc="upper left")


def rank_bars(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], energy: float) -> str:
    """Rank of each forced layer: full, then each net (the paper's Figure 5).

    Args:
        tables: net -> layer -> ``rank`` and ``full``.
        energy: what the ranks keep.
    """
    with matplotlib.rc_context(_STYLE):
        first = next(iter(tables.values()))
        layers = list(first)
        figure, (axes,) = _axes(width=max(7.0, 0.45 * len(layers) * (len(tables) + 1) / 3))
        series = [("full", [first[layer]["full"] for layer in layers])]
        series += [(name, [t[layer]["rank"] for layer in layers]) for name, t in tables.items()]
        _grouped(axes, layers, series, COLOURS, fontsize=9 if len(layers) < 8 else 6)
        axes.set_ylabel(f"rank at energy {energy:g}")
        axes.set_ylim(0, max(series[0][1]) * 1.2)
        return _svg(figure)


def zero_bars(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Share of zeros by layer of each sparsified net (the paper's Figure 8).

    Args:
        shares: net -> layer -> share of 1.
    """
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _axes()
        layers = list(next(iter(shares.values())))
        series = [(name, [100 * net[x] for x in layers]) for name, net in shares.items()]
        _grouped(axes, layers, series, COLOURS[1:], fontsize=9, fmt="%.0f")
        axes.set_ylabel("zero weights, %")
        axes.set_ylim(0, 115)
        return _svg(figure)


def trade_off(
    series: Sequence[tuple[str, Sequence[tuple[float, float, str]], str]], floor: float | None
) -> str:
    """Accuracy against mean rank ratio over the strengths of a force (the paper's Figure 6).

    Args:
        series: name, points (ratio, accuracy, label), colour; both numbers are shares of 1.
        floor: accuracy that counts as kept, drawn as a line.
    """
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _axes()
        for number, (name, points, colour) in enumerate(series):
            ordered = sorted(points)
            # Labels of neighbouring series stand above and below their points.
            height = -12 if number % 2 else 5
            axes.plot([100 * p[0] for p in ordered], [100 * p[1] for p in ordered], label=name,
                      color=colour, marker="o", linewidth=1.4, markersize=5)  # fmt: skip
            for ratio, accuracy, label in ordered:
                axes.annotate(label, (100 * ratio, 100 * accuracy), xytext=(4, height), fontsize=8,
                              textcoords="offset points", color=colour)  # fmt: skip
        if floor is not None:
            axes.axhline(100 * floor, color=GREY, linewidth=1, linestyle="--")
        axes.set_xlabel("mean rank ratio, %")
        axes.set_ylabel("test accuracy, %")
        axes.margins(x=0.12, y=0.15)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
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
        colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
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
