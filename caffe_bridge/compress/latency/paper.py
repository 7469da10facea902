"""The speed-ups of the paper's AlexNet tables, measured layer by layer on this machine.

Wen et al., "Coordinating Filters for Faster Deep Neural Networks", ICCV 2017: Table 4 (filter PCA
of conv3 to conv5 with and without force) and Table 6 (separable conv1 and conv2, PCA above). Speed
does not depend on the weights, so that the geometry and the ranks suffice. The nets of a table and
the whole AlexNet run in turn in one process; a layer's time is read from the profile of the net
that it stands in, between its real neighbours, the net's from runs without a profile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from caffe_bridge.bench import (
    RUNTIME,
    BenchSession,
    LayerRow,
    Timing,
    compare_layers,
    make_session,
    measure,
    net_cost,
    profile_models,
    speed_up,
)
from caffe_bridge.compress.decompose import decomposition
from caffe_bridge.compress.latency.alexnet import alexnet_spec
from caffe_bridge.compress.latency.forms import Form
from caffe_bridge.compress.latency.single import fill_small
from caffe_bridge.compress.latency.whole import replaced
from caffe_bridge.compress.rank.align import align
from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import convert

#: The row of a whole net, and that of its changes between memory layouts.
WHOLE_NET, REORDERS = "(whole net)", "(reorders)"
_BASELINE = "whole"


@dataclass(frozen=True)
class PaperNet:
    """One row of a table: what was decomposed, and the speed-ups that the paper gives.

    ``ranks`` is empty where the paper's ranks are not known, so that nothing can be measured;
    ``None`` in ``cpu`` or ``gpu`` is a number that was not found.
    """

    name: str
    ranks: Mapping[str, tuple[str, int]]
    cpu: Mapping[str, float | None] = field(default_factory=dict)
    gpu: Mapping[str, float | None] = field(default_factory=dict)
    theoretical: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


def _three(*values: float) -> dict[str, float | None]:
    return dict(zip(("conv3", "conv4", "conv5"), values, strict=True))


def _six(*values: float | None) -> dict[str, float | None]:
    names = ("conv1", "conv2", "conv3", "conv4", "conv5", WHOLE_NET)
    return dict(zip(names, values, strict=True))


TABLES: dict[str, tuple[PaperNet, ...]] = {
    "table4": (
        PaperNet(
            "no force", {"conv3": ("pca", 184), "conv4": ("pca", 201), "conv5": ("pca", 146)},
            _three(1.78, 1.60, 1.47), _three(1.58, 1.21, 1.15),
            {"conv3": 1.79, "conv4": 1.72, "conv5": 1.63}, "top-1 43.21 %",
        ),
        PaperNet(
            "L2 force", {"conv3": ("pca", 124), "conv4": ("pca", 106), "conv5": ("pca", 129)},
            _three(2.45, 2.76, 1.64), _three(2.16, 2.03, 1.33),
            {"conv3": 2.65, "conv4": 3.26, "conv5": 1.85}, "top-1 43.25 %",
        ),
    ),
    "table6": (
        PaperNet(
            "published configuration",
            {"conv1": ("spatial", 8), "conv2": ("spatial", 40), "conv3": ("pca", 150),
             "conv4": ("pca", 160), "conv5": ("pca", 120)},
        ),
        PaperNet("ours +0.17", {}, _six(2.61, 6.06, 2.48, 2.20, 1.58, 2.69),
                 error="top-5 20.14 %"),
        PaperNet("ours +1.71", {}, _six(2.65, 6.22, 4.81, 4.00, 2.92, 4.05),
                 error="top-5 21.68 %"),
        PaperNet("SSL -0.39", {}, _six(1.00, 1.27, 1.64, 1.68, 1.32, 1.35),
                 error="top-5 19.58 %"),
        PaperNet("SSL +1.66", {}, _six(1.05, 3.37, 6.27, 9.73, 4.93, 3.13),
                 error="top-5 21.63 %"),
        PaperNet("one-shot +1.70", {}, _six(1.48, 2.30, 3.84, 3.53, 3.13, 2.52),
                 error="top-5 21.67 %"),
        PaperNet("cp-decomposition +1.00", {}, _six(None, 4.00, None, None, None, 1.27),
                 error="top-5 20.97 %"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PaperRow:
    """One layer (or the whole net) of one net: counted, measured here, and as the paper has it.

    ``theoretical`` is the ratio of multiply-accumulates at ``rank``; the three ``paper`` numbers
    belong to the published rank, and are None where they were not found.
    """

    net: str
    layer: str
    method: str
    rank: int
    aligned: bool
    batch: int
    threads: int
    theoretical: float | None
    before_ms: float
    after_ms: float
    measured: float | None
    paper_cpu: float | None
    paper_gpu: float | None
    paper_theoretical: float | None

    @property
    def share(self) -> float | None:
        """Measured over theoretical speed-up."""
        if self.theoretical is None or self.measured is None:
            return None
        return self.measured / self.theoretical


@dataclass(frozen=True)
class _Variant:
    row: PaperNet
    name: str
    aligned: bool
    forms: Mapping[str, Form]


def alexnet_target(net: Net, name: str) -> Target:
    """A convolution of the net as something to decompose, without values."""
    layer = next(layer for layer in net.built.layers if layer.name == name)
    weight = layer.blobs[0]
    shape = tuple(int(size) for size in weight.shape)
    record = layer.spec.record
    group = int(record.convolution_param.group)
    zeros = np.zeros((shape[0], math.prod(shape[1:])), np.float32)
    return Target(record, zeros, shape[1:], group, np.zeros(shape[0], np.float32))


def _turned(forms: Mapping[str, Form]) -> dict[str, Form]:
    """The same ranks, separable kernels in the other order; empty where there are none."""
    other = decomposition("spatial_h")
    if all(form.method.name != "spatial" for form in forms.values()):
        return {}
    return {
        name: Form(other, form.rank) if form.method.name == "spatial" else form
        for name, form in forms.items()
    }


def _variants(rows: Sequence[PaperNet], net: Net, block: int) -> list[_Variant]:
    """Every row with ranks at those ranks, and at ranks rounded up where that changes one."""
    made = []
    for row in rows:
        published: dict[str, Form] = {}
        rounded: dict[str, Form] = {}
        for name, (method_name, rank) in row.ranks.items():
            target, method = alexnet_target(net, name), decomposition(method_name)
            given = rank // target.group * target.group
            published[name] = Form(method, given)
            if block:
                most = method.max_rank(target.blob, target.group)
                rounded[name] = Form(method, align(given, most, target.group, block))
        if published:
            made.append(_Variant(row, row.name, False, published))
        if rounded and rounded != published:
            made.append(_Variant(row, f"{row.name}, aligned", True, rounded))
            if turned := _turned(rounded):
                made.append(_Variant(row, f"{row.name}, aligned, 1 x kw first", True, turned))
    return made


class PaperBench:
    """The nets of a table as ONNX files in a folder, measured for a batch size and threads.

    Args:
        table: "table4" or "table6".
        folder: where the ONNX files go.
        block: channel block for the rounded ranks; 0 leaves them out.
        device: "cpu" or "cuda".
        seconds: how long each of the two measurements of a batch and thread count may take, each
            net; eight runs of each are always made.
        export_for: the target of the ONNX files.

    Raises:
        PlanError: unknown table.
    """

    def __init__(
        self, table: str, folder: Path, block: int, device: str = "cpu", seconds: float = 6.0,
        export_for: str = "portable",
    ) -> None:  # fmt: skip
        if table not in TABLES:
            raise PlanError(f"the paper's '{table}' is not known; use {' or '.join(TABLES)}.")
        self.device, self.seconds = device, seconds
        self.net = Net(alexnet_spec(), weights=None, seed=0)
        fill_small(self.net)
        self.variants = _variants(TABLES[table], self.net, block)
        self.paths = {_BASELINE: convert(self.net.eval(), folder / "whole.onnx", target=export_for)}
        self.macs = {_BASELINE: _macs(self.net)}
        for number, variant in enumerate(self.variants):
            small = replaced(self.net, variant.forms, None)
            self.macs[variant.name] = _macs(small)
            path = folder / f"net{number}.onnx"
            self.paths[variant.name] = convert(small, path, target=export_for)

    def measure(self, batch: int, threads: int) -> list[PaperRow]:
        """Rows of all variants: layer by layer, the reorders, the whole net last."""
        timings = self._whole(batch, threads)
        once = float(np.median(timings[_BASELINE].samples)) / 1e3
        runs = int(np.clip(self.seconds / once, 8, 40))
        profiles = profile_models(
            self.paths, threads, batch, runs, warmup=2, device=self.device
        )  # fmt: skip
        first, baseline = timings[_BASELINE], profiles[_BASELINE]
        rows = []
        for variant in self.variants:
            paper, head = variant.row, (variant.name, variant.aligned, batch, threads)
            last, profile = timings[variant.name], profiles[variant.name]
            found = {r.layer: r for r in compare_layers(baseline.layers, profile.layers)}
            counted = {
                r.layer: r.speed_up
                for r in compare_layers(self.macs[_BASELINE], self.macs[variant.name])
            }
            for name, form in variant.forms.items():
                rows.append(
                    _row(head, name, form, counted[name], found[name], paper)
                )  # fmt: skip
            reorders = LayerRow(
                REORDERS, baseline.layers.get(RUNTIME, 0.0), profile.layers.get(RUNTIME, 0.0), None
            )
            rows.append(_row(head, REORDERS, None, None, reorders, paper))
            theoretical = sum(self.macs[_BASELINE].values()) / sum(self.macs[variant.name].values())
            whole = LayerRow(
                WHOLE_NET, first.stats().median_ms, last.stats().median_ms,
                speed_up(first, last, draws=200).ratio,
            )  # fmt: skip
            rows.append(_row(head, WHOLE_NET, None, theoretical, whole, paper))
        return rows

    def _whole(self, batch: int, threads: int) -> dict[str, Timing]:
        sessions: dict[str, BenchSession] = {
            name: make_session(path, threads, self.device, batch=batch)
            for name, path in self.paths.items()
        }
        return measure(sessions, 8, self.seconds / 2, 1, 0.0, 1, self.seconds)


def _macs(net: Net) -> dict[str, float]:
    return {row.layer: float(row.macs or 0) for row in net_cost(net).layers}


def _row(
    head: tuple[str, bool, int, int], name: str, form: Form | None, theoretical: float | None,
    times: LayerRow, paper: PaperNet,
) -> PaperRow:  # fmt: skip
    net, aligned, batch, threads = head
    rank = form.rank if form is not None and isinstance(form.rank, int) else 0
    return PaperRow(
        net, name, form.method.name if form else "", rank, aligned, batch, threads, theoretical,
        times.baseline_ms or 0.0, times.candidate_ms or 0.0, times.speed_up,
        paper.cpu.get(name), paper.gpu.get(name), paper.theoretical.get(name),
    )  # fmt: skip
