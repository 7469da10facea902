"""Sensitivity scan: what one layer alone at a lower rank costs the whole net, on data.

For every layer and every level (a share of its largest rank) the net is rewritten with that one
layer decomposed and run on the same batches (:mod:`~caffe_bridge.compress.judge`). Each point is
stored as soon as it is known, so that a scan that was cut off goes on, and one of other layers or
levels adds to the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge.compress.calibration import Feed
from caffe_bridge.compress.decompose import Decomposition, decomposition
from caffe_bridge.compress.judge import Judge
from caffe_bridge.compress.plan import LayerPlan, Plan
from caffe_bridge.compress.rewrite import as_weights_of, rewrite
from caffe_bridge.compress.target import Target, find_targets
from caffe_bridge.errors import PlanError
from caffe_bridge.files import atomic_write, require_file
from caffe_bridge.graph import load_net
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, Weights, format_text

LEVELS = (0.125, 0.25, 0.5, 0.75)
#: Share of a layer's largest loss that keeps ranks of equal measured error apart.
_APART = 0.01
#: Loss of a layer's rank, as the budget takes it: squared relative error.
Loss = Callable[[int], float]


@dataclass(frozen=True)
class Point:
    """One layer at one rank.

    Attributes:
        layer: its name.
        rank: total over the groups.
        most: its largest rank.
        error: relative error of the judged blob.
        score: accuracy, or the share of items whose largest value stays.
    """

    layer: str
    rank: int
    most: int
    error: float
    score: float

    @property
    def level(self) -> float:
        """Share of the largest rank."""
        return self.rank / self.most


@dataclass(frozen=True)
class Scan:
    """All points of a net.

    Attributes:
        blob: what is judged.
        scored: "accuracy", or "agreement" of the largest value with the whole net's.
        whole: score of the whole net.
        method: the decomposition.
        points: in prototxt order, ranks ascending.
    """

    blob: str
    scored: str
    whole: float
    method: str
    points: tuple[Point, ...]


def _ranks(method: Decomposition, target: Target, levels: Iterable[float]) -> list[int]:
    most = method.max_rank(target.blob, target.group)
    if not isinstance(most, int):
        raise PlanError(f"method {method.name} has two ranks; scan with pca, svd or spatial.")
    each = most // target.group
    return sorted({max(1, min(each, round(level * each))) * target.group for level in levels})


def _key(net: Record, weights: Weights, feeds: Sequence[Feed], method: str, blob: str) -> str:
    def raw(text: str) -> bytes:
        return text.encode("utf-8", "surrogateescape")

    made = hashlib.sha256(raw(format_text(net)))
    for name, blobs in weights.blobs.items():
        made.update(raw(name))
        for stored in blobs:
            if stored is not None:
                made.update(np.ascontiguousarray(stored.array()).tobytes())
    for feed in feeds:
        for name, value in feed.items():
            made.update(raw(name) + np.ascontiguousarray(value.numpy()).tobytes())
    made.update(raw(f"{method} {blob}"))
    return made.hexdigest()


def _stored(path: Path | None, key: str) -> dict[tuple[str, int], Point]:
    """Points of an earlier scan of the same net, weights and data."""
    if path is None or not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = [Point(**point) for point in data["points"]] if data["key"] == key else []
    except (ValueError, KeyError, TypeError):
        return {}
    return {(point.layer, point.rank): point for point in found}


def _write(
    path: Path | None, key: str, scan: Scan, known: Mapping[tuple[str, int], Point],
    order: Sequence[str],
) -> None:  # fmt: skip
    """Store a scan, together with the points of earlier ones."""
    if path is None:
        return
    points = {**known, **{(point.layer, point.rank): point for point in scan.points}}
    ordered = sorted(points.values(), key=lambda point: (order.index(point.layer), point.rank))
    data = {"key": key, **asdict(replace(scan, points=tuple(ordered)))}
    with atomic_write(path) as stream:
        stream.write((json.dumps(data, indent=1) + "\n").encode())


def scan_net(
    net: Record,
    weights: Weights,
    feeds: Sequence[Feed],
    *,
    levels: Iterable[float] = LEVELS,
    layers: Sequence[str] | None = None,
    method: str = "pca",
    include_fc: bool = True,
    blob: str = "",
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Scan:
    """Decompose one layer at a time, at several ranks, and judge the net.

    Args:
        net: unfiltered NetParameter in the current format; its TEST net is judged.
        weights: its weights.
        feeds: batches.
        levels: shares of the largest rank, in (0, 1].
        layers: names; all that can be decomposed when None.
        method: a decomposition with one rank.
        include_fc: fully connected layers too, when ``layers`` is None.
        blob: what is judged; see :func:`~caffe_bridge.compress.judge.judged_blob` when empty.
        cache: JSON file that is read first and written after every point; it keeps earlier points
            of the same net, weights, data and method.
        progress: told the layer, how many points are done, and of how many.

    Raises:
        PlanError: no batch, a level out of range, or a layer that cannot be decomposed.
        WeightError: the weights do not belong to the net.
    """
    if not feeds:
        raise PlanError("a sensitivity scan wants at least one batch of inputs.")
    levels = tuple(levels)
    for level in levels:
        if not 0 < level <= 1:
            raise PlanError(f"level {level:g}: give a share of the largest rank, in (0, 1].")
    made, path = decomposition(method), Path(cache) if cache is not None else None
    whole = Net(load_net(net, "TEST"), weights=weights)
    judge = Judge(whole, feeds, blob)
    work = [
        (target, rank)
        for target in _targets(net, weights, whole, made, layers, include_fc)
        for rank in _ranks(made, target, levels)
    ]
    key, order = _key(net, weights, feeds, method, judge.blob), list(find_targets(net, weights))
    known = _stored(path, key)
    points: list[Point] = []
    scan = Scan(judge.blob, judge.scored, judge.whole, method, ())
    for number, (target, rank) in enumerate(work):
        if progress is not None:
            progress(target.name, number, len(work))
        point = known.get((target.name, rank))
        if point is None:
            record, blobs = rewrite(net, weights, Plan([LayerPlan(target.name, method, rank)]))
            low = Net(load_net(record, "TEST"), weights=as_weights_of(blobs))
            most = made.max_rank(target.blob, target.group)
            point = Point(
                target.name, rank, most if isinstance(most, int) else 0,
                *judge(low),
            )  # fmt: skip
        points.append(point)
        scan = replace(scan, points=tuple(points))
        _write(path, key, scan, known, order)
    return scan


def _targets(
    net: Record, weights: Weights, whole: Net, method: Decomposition,
    layers: Sequence[str] | None, include_fc: bool,
) -> list[Target]:  # fmt: skip
    found = find_targets(net, weights)
    present = {layer.name for layer in whole.built.layers}
    for name in layers or ():
        target = found.get(name, "it is no layer with a weight matrix")
        reason = target if isinstance(target, str) else method.refusal(target)
        if reason or name not in present:
            raise PlanError(f"layer {name} cannot be scanned: {reason or 'not in the TEST net'}.")
    return [
        target for name, target in found.items()
        if isinstance(target, Target) and name in present and not method.refusal(target)
        and (name in layers if layers is not None else include_fc or not target.is_fc)
    ]  # fmt: skip


def read_scan(path: str | os.PathLike[str]) -> Scan:
    """A scan that was written before.

    Raises:
        PlanError: the file is no scan.
    """
    text = require_file(path, "sensitivity").read_text(encoding="utf-8", errors="replace")
    try:
        data: dict[str, Any] = json.loads(text)
        points = tuple(Point(**point) for point in data["points"])
        return Scan(data["blob"], data["scored"], data["whole"], data["method"], points)
    except (ValueError, KeyError, TypeError) as error:
        raise PlanError(
            f"{path}: is no sensitivity scan ({error}); write one with 'caffe-bridge sensitivity'."
        ) from error


def losses(scan: Scan) -> Mapping[str, Loss]:
    """Squared error of the judged blob as a function of the rank, for each scanned layer.

    Between the ranks that were measured it is interpolated, and below the lowest continued by the
    ratio of ranks. It always rises as the rank falls: where the scan saw the same error or a
    smaller one at a lower rank, a hundredth of the layer's largest error, in proportion to the
    ranks that go, tells them apart, so that a rank which costs nothing is kept.
    """
    found: dict[str, Loss] = {}
    for name in dict.fromkeys(point.layer for point in scan.points):
        own = sorted((p for p in scan.points if p.layer == name), key=lambda p: p.rank)
        ranks = [p.rank for p in own] + [own[0].most + (own[-1].rank == own[0].most)]
        errors = np.maximum.accumulate([0.0, *(p.error**2 for p in reversed(own))])[::-1]
        gone = 1.0 - np.minimum(np.array(ranks) / own[0].most, 1.0)
        errors = errors + _APART * errors[0] * gone

        def loss(rank: int, ranks: Sequence[int] = ranks, errors: np.ndarray = errors) -> float:
            if rank < ranks[0]:
                return float(errors[0]) * ranks[0] / rank
            return float(np.interp(rank, ranks, errors))

        found[name] = loss
    return found
