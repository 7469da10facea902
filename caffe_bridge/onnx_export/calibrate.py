"""The range of every value of an ONNX model on calibration data, for its int8 scale.

Two passes over the batches: one for the least and greatest number of each value, one for a
histogram of :data:`BINS` bins between them. From these

    minmax      [least, greatest]
    percentile  without the outermost :data:`TAIL` of the numbers at each end
    entropy     what of it lies in [-T, T], for the T with the least Kullback-Leibler divergence
                sum p log(p / q) between the histogram p, its outside added to the last bins, and
                q, the same spread evenly over the non-empty bins of each of :data:`LEVELS` levels

(entropy: Migacz, "8-bit inference with TensorRT", GTC 2017; the range always holds 0, and zeros,
which ReLU and padding make in masses, are not counted.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from caffe_bridge.onnx_export.verify import session

#: Arrays by input name.
Feeds = Sequence[Mapping[str, np.ndarray]]
Range = tuple[float, float]

METHODS = ("minmax", "percentile", "entropy")
BINS = 4096
TAIL = 1e-5
LEVELS = 256
#: Thresholds T that are tried, as shares of the largest magnitude.
_SHARES = 2.0 ** -np.linspace(7, 0, 57)
#: What an empty bin of q counts, so that its divergence is large and finite.
_EMPTY = 1e-6


@dataclass
class Histogram:
    """Counts of a value's numbers in equal bins from ``least`` to ``greatest``."""

    least: float
    greatest: float
    counts: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """The bins' ends."""
        return np.linspace(self.least, self.greatest, len(self.counts) + 1)


def percentile_range(found: Histogram, tail: float = TAIL) -> Range:
    """Without a share ``tail`` of the numbers at each end."""
    share = np.cumsum(found.counts) / max(1, found.counts.sum())
    first = int(np.searchsorted(share, tail, side="right"))
    last = int(np.searchsorted(share, 1 - tail, side="left"))
    edges = found.edges
    return float(edges[min(first, len(edges) - 2)]), float(edges[min(last, len(edges) - 2) + 1])


def _divergence(counts: np.ndarray, low: int, high: int) -> float:
    p = counts[low:high].astype(np.float64)
    full = p > 0
    level = np.arange(len(p)) * LEVELS // len(p)
    mass = np.bincount(level, p, LEVELS)
    places = np.bincount(level, full, LEVELS)
    q = np.where(full, mass[level] / np.maximum(places[level], 1), 0.0)
    p[0] += counts[:low].sum()
    p[-1] += counts[high:].sum()
    total, used = p.sum(), p > 0
    p, q = p[used] / total, np.maximum(q[used] / max(q.sum(), 1e-12), _EMPTY)
    return float((p * np.log(p / q)).sum())


def _without_zeros(found: Histogram) -> np.ndarray:
    """Counts whose bin at 0 holds no more than its neighbours: exact zeros cost no precision."""
    counts = found.counts.copy()
    place = int(np.searchsorted(found.edges, 0.0, side="right")) - 1
    if 0 <= place < len(counts):
        beside = counts[max(0, place - 1) : place + 2].copy()
        beside[min(place, 1)] = 0
        counts[place] = min(counts[place], beside.max(initial=0))
    return counts


def entropy_range(found: Histogram) -> Range:
    """The part of the range that loses least information."""
    edges, best, chosen = found.edges, np.inf, (found.least, found.greatest)
    counts = _without_zeros(found)
    peak = max(-found.least, found.greatest)
    for share in _SHARES:
        least, greatest = max(found.least, -share * peak), min(found.greatest, share * peak)
        low = int(np.searchsorted(edges, least, side="right")) - 1
        high = int(np.searchsorted(edges, greatest, side="left"))
        low, high = max(0, low), min(len(counts), high)
        if high - low < LEVELS:
            continue
        lost = _divergence(counts, low, high)
        if lost <= best:
            best, chosen = lost, (float(least), float(greatest))
    return chosen


def exposed(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """A copy of a model that gives out the named values as well."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {item.name for item in copy.graph.output}
    for name in kept:
        if name not in present:
            copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return copy


def float_values(model: onnx.ModelProto) -> list[str]:
    """Inputs and values between the nodes that are float32 tensors."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = (*inferred.input, *inferred.value_info, *inferred.output)
    floats = {v.name for v in known if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    made = [item.name for item in model.graph.input]
    made += [name for node in model.graph.node for name in node.output if name]
    return [name for name in made if name in floats]


def ranges(model: onnx.ModelProto, feeds: Feeds, method: str) -> dict[str, Range]:
    """The range of each float value of a model.

    Args:
        model: its inputs are fed from ``feeds``.
        feeds: batches.
        method: minmax, percentile or entropy.

    Raises:
        BackendError: onnxruntime cannot load the model.
    """
    inputs = [item.name for item in model.graph.input]
    wanted = float_values(model)
    computed = [name for name in wanted if name not in inputs]
    loaded = session(exposed(model, computed))

    def batches(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = {name: np.asarray(feed[name], np.float32) for name in inputs}
        made = dict(zip(computed, loaded.run(computed, arrays), strict=True)) if computed else {}
        return {name: (made | arrays)[name] for name in wanted}

    found: dict[str, Histogram] = {}
    for feed in feeds:
        for name, values in batches(feed).items():
            low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
            now = found.setdefault(name, Histogram(0.0, 0.0, np.zeros(BINS, np.int64)))
            now.least, now.greatest = min(now.least, low), max(now.greatest, high)
    if method == "minmax":
        return {name: (now.least, now.greatest) for name, now in found.items()}
    for feed in feeds:
        for name, values in batches(feed).items():
            now = found[name]
            if now.greatest > now.least:
                now.counts += np.histogram(values, BINS, (now.least, now.greatest))[0]
    rule = percentile_range if method == "percentile" else entropy_range
    return {
        name: rule(now) if now.greatest > now.least else (now.least, now.greatest)
        for name, now in found.items()
    }  # fmt: skip
