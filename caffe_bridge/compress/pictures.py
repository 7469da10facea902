"""Pictures of ranks, sensitivity and trade-offs; the file's ending chooses SVG, PNG or PDF."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from caffe_bridge.compress.rank.align import parts
from caffe_bridge.compress.rank_table import RankRow
from caffe_bridge.compress.sensitivity import Scan
from caffe_bridge.errors import PlanError
from caffe_bridge.files import atomic_path

ENDINGS = (".svg", ".png", ".pdf")
_GREY, _BLUE, _RED = "#c9ced6", "#3b6fb6", "#d1495b"
_STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "svg.fonttype": "none", "svg.hashsalt": "caffe_bridge",
}  # fmt: skip


def check_picture(path: str) -> None:
    """Refuse a file whose ending is no picture's.

    Raises:
        PlanError: another ending.
    """
    if Path(path).suffix.lower() not in ENDINGS:
        raise PlanError(f"{path}: a picture ends in {', '.join(ENDINGS)}.")


@contextmanager
def _drawn(path: str | os.PathLike[str], width: float, height: float) -> Iterator[Figure]:
    """A figure that is written when the block ends."""
    check_picture(str(path))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        ending = Path(path).suffix.lower()[1:]
        metadata = {"Date": None} if ending == "svg" else None
        with atomic_path(path) as made:
            figure.savefig(made, format=ending, dpi=150, metadata=metadata)


def draw_ranks(
    path: str | os.PathLike[str],
    rows: Sequence[RankRow],
    spectra: Mapping[str, Sequence[np.ndarray]],
    title: str,
) -> None:
    """Rank bars of all layers, and below them every layer's eigenvalue spectrum.

    Args:
        path: the picture.
        rows: the table.
        spectra: eigenvalues of every group (of tucker's both sides), descending, by layer.
        title: what the ranks keep.

    Raises:
        PlanError: the ending is no picture's.
    """
    columns = min(4, max(1, len(rows)))
    lines = -(-len(rows) // columns)
    width = max(6.0, 0.3 * len(rows) + 2, 2.6 * columns)
    with _drawn(path, width, 2.8 + 2.0 * lines) as figure:
        halves: Any = figure.subfigures(2, 1, height_ratios=[2.8, 2.0 * lines])
        top, below = halves
        bars = top.subplots()
        places = np.arange(len(rows))
        bars.bar(places, [_most(row) for row in rows], color=_GREY, label="full")
        shown = [_total(row.rank) for row in rows]
        bars.bar(places, shown, color=_BLUE, width=0.5, label="rank")
        for place, rank in zip(places, shown, strict=True):
            bars.text(place, rank, str(rank), ha="center", va="bottom", fontsize=7)
        bars.set_xticks(places, [row.layer for row in rows],
                        rotation=90 if len(rows) > 6 else 0)  # fmt: skip
        bars.set_ylabel("rank")
        bars.set_title(title)
        bars.legend(frameon=False, fontsize=8)
        axes = below.subplots(lines, columns, squeeze=False).ravel()
        for axis, row in zip(axes, rows, strict=False):
            groups = spectra[row.layer]
            for values in groups:
                share = np.asarray(values) / max(float(np.sum(values)), 1e-300)
                axis.semilogy(np.arange(1, len(share) + 1), np.maximum(share, 1e-9), lw=1.0)
            for rank in parts(row.rank):
                axis.axvline(rank / row.group, color=_RED, lw=1.0, ls="--")
            axis.set_title(row.layer, fontsize=8)
            axis.set_ylim(bottom=max(1e-6, min(axis.get_ylim()[0], 1e-3)))
            axis.tick_params(labelsize=7)
            axis.yaxis.set_minor_formatter(NullFormatter())
        for axis in axes[len(rows) :]:
            axis.set_visible(False)
        below.supylabel("share of the squared norm", fontsize=8)
        below.supxlabel("eigenvalue (dashed: rank of a group)", fontsize=8)


def _total(rank: Any) -> int:
    return int(rank if isinstance(rank, int) else rank[-1])


def _most(row: RankRow) -> int:
    return _total(row.max_rank)


def draw_scan(path: str | os.PathLike[str], scan: Scan) -> None:
    """Error and score of the net against the rank of each layer.

    Raises:
        PlanError: the ending is no picture's.
    """
    names = list(dict.fromkeys(point.layer for point in scan.points))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, max(1, len(names))))
    with _drawn(path, 9.0, max(3.2, 0.17 * len(names) + 1.5)) as figure:
        left, right = figure.subplots(1, 2)
        for name, colour in zip(names, colours, strict=True):
            own = [p for p in scan.points if p.layer == name]
            level = [p.level for p in own]
            left.plot(level, [p.error for p in own], "o-", ms=3, lw=1, color=colour, label=name)
            right.plot(level, [p.score for p in own], "o-", ms=3, lw=1, color=colour)
        right.axhline(scan.whole, color=_GREY, lw=1.0, ls="--")
        left.set_ylabel(f"relative error of {scan.blob}")
        right.set_ylabel(scan.scored)
        for axis in (left, right):
            axis.set_xlabel("rank / largest rank")
        figure.legend(loc="outside right center", frameon=False, fontsize=7)


def draw_tradeoff(
    path: str | os.PathLike[str],
    series: Mapping[str, Sequence[tuple[float, float, str]]],
    x: str,
    y: str,
) -> None:
    """Curves of one number against another.

    Args:
        path: the picture.
        series: name of a curve -> points (x, y, label), in any order.
        x: name of the horizontal axis.
        y: name of the vertical axis.

    Raises:
        PlanError: the ending is no picture's.
    """
    with _drawn(path, 6.4, 4.0) as figure:
        axis = figure.subplots()
        colours = (_BLUE, _RED, "#4f9d69", "#8a63b3", "#c98b2b")
        for number, (name, points) in enumerate(series.items()):
            ordered = sorted(points)
            colour = colours[number % len(colours)]
            axis.plot([p[0] for p in ordered], [p[1] for p in ordered], "o-", ms=4, lw=1.2,
                      color=colour, label=name)  # fmt: skip
            for px, py, label in ordered:
                axis.annotate(label, (px, py), xytext=(4, 4), textcoords="offset points",
                              fontsize=7, color=colour)  # fmt: skip
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.margins(0.08)
        if len(series) > 1:
            axis.legend(frameon=False, fontsize=8)
