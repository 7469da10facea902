"""One schema for measured results; JSON is the source, Markdown, CSV and tables come from it.

"Speed-up" always means a ratio of measured times. It never stands alone: the difference between
the models' outputs on the same input is part of the same result.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from caffe_bridge.bench.machine import Machine
from caffe_bridge.bench.timing import Schedule, SpeedUp, Stats
from caffe_bridge.errors import SchemaError
from caffe_bridge.files import atomic_write, require_file
from caffe_bridge.onnx_export.verify import difference as largest_gap

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Difference:
    """How far a model's outputs are from the baseline's on the same input.

    ``max_rel`` is the largest difference over the largest value of the baseline's output;
    ``top1`` is the share of images with the same largest entry (None where an image has one).
    """

    max_abs: float
    max_rel: float
    top1: float | None


@dataclass(frozen=True)
class ModelResult:
    """What was measured of one model; the baseline has no speed-up and no difference.

    ``difference`` is None too where the outputs' shapes differ.
    """

    name: str
    path: str
    file_bytes: int
    session_ms: float
    first_run_ms: float
    providers: tuple[str, ...]
    stats: Stats
    speed_up: SpeedUp | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class LayerResult:
    """Profiled milliseconds of one layer by model, and the speed-up over the baseline."""

    layer: str
    ms: dict[str, float | None]
    speed_up: dict[str, float | None]


@dataclass(frozen=True)
class BenchResult:
    """One measurement: settings, machine, models (the first is the baseline) and layers."""

    created: str
    threads: int
    batch: int
    device: str
    seed: int
    schedule: Schedule
    machine: Machine
    models: tuple[ModelResult, ...]
    layers: tuple[LayerResult, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def baseline(self) -> ModelResult:
        """The model that all others are compared with."""
        return self.models[0]


def difference(
    baseline: dict[str, np.ndarray], other: dict[str, np.ndarray]
) -> Difference | None:  # fmt: skip
    """Compare outputs in their order; None unless number and shapes agree.

    Infinite where one model gives NaN or infinity and the other does not.
    """
    pairs = list(zip(baseline.values(), other.values(), strict=False))
    if len(baseline) != len(other) or any(a.shape != b.shape for a, b in pairs) or not pairs:
        return None
    largest, relative = 0.0, 0.0
    for a, b in pairs:
        if not a.size:
            continue
        gap = largest_gap(b, a)[0]
        scale = float(np.abs(a[np.isfinite(a)].astype(np.float64)).max(initial=0.0))
        largest = max(largest, gap)
        relative = max(relative, gap / scale if scale else (np.inf if gap else 0.0))
    first, second = pairs[-1]
    top1 = None
    if first.ndim > 1 and first.size > len(first):
        rows = first.reshape(len(first), -1).argmax(1) == second.reshape(len(first), -1).argmax(1)
        top1 = float(rows.mean())
    return Difference(largest, float(relative), top1)


def to_json(result: BenchResult, path: str | os.PathLike[str] | None = None) -> str:
    """The result as JSON text, written to a file too if one is named."""
    text = json.dumps(dataclasses.asdict(result), indent=2) + "\n"
    if path is not None:
        with atomic_write(path) as stream:
            stream.write(text.encode())
    return text


def _make(cls: type, values: dict[str, Any], **changed: Any) -> Any:
    return cls(**{**values, **changed})


def from_json(text: str, source: str = "<text>") -> BenchResult:
    """The result that :func:`to_json` wrote.

    Raises:
        SchemaError: no such JSON, or another schema version.
    """
    try:
        data = json.loads(text)
        version = data["schema_version"]
        if version != SCHEMA_VERSION:
            raise SchemaError(
                f"{source}: has schema version {version}, this program reads {SCHEMA_VERSION}; "
                "use the program that wrote it."
            )
        machine = _make(
            Machine, data["machine"],
            **{n: tuple(data["machine"][n]) for n in ("flags", "load_average", "providers")},
        )  # fmt: skip
        models = tuple(
            _make(
                ModelResult, model,
                providers=tuple(model["providers"]),
                stats=Stats(**model["stats"]),
                speed_up=SpeedUp(**model["speed_up"]) if model["speed_up"] else None,
                difference=Difference(**model["difference"]) if model["difference"] else None,
            )
            for model in data["models"]
        )  # fmt: skip
        layers = tuple(LayerResult(**layer) for layer in data["layers"])
        schedule = Schedule(**data["schedule"])
        made: BenchResult = _make(
            BenchResult, data, machine=machine, models=models, layers=layers, schedule=schedule
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"{source}: is no benchmark result ({error!r}).") from None
    return made


def load_json(path: str | os.PathLike[str]) -> BenchResult:
    """Read a result file.

    Raises:
        SchemaError: see :func:`from_json`.
    """
    found = require_file(path, "benchmark JSON")
    return from_json(Path(found).read_text(encoding="utf-8"), str(path))


_MODEL_HEAD = ("model", "median ms", "p90", "p95", "p99", "min", "mean", "CoV %", "images/s",
               "speed-up", "95 % interval", "max diff", "rel diff", "top-1 same %", "load ms",
               "first ms", "file MB", "runs", "note")  # fmt: skip


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 100 else f"{value:.1f}"


def model_rows(result: BenchResult) -> list[list[str]]:
    """The text of the table of models, one list a model, columns as in its head."""
    rows = []
    for model in result.models:
        stats, gain, gap = model.stats, model.speed_up, model.difference
        rows.append(
            [
                model.name, *(_ms(x) for x in (stats.median_ms, stats.p90_ms, stats.p95_ms,
                stats.p99_ms, stats.min_ms, stats.mean_ms)), f"{stats.cov * 100:.1f}",
                f"{stats.images_per_s:.1f}", f"{gain.ratio:.2f}x" if gain else "-",
                f"{gain.low:.2f}-{gain.high:.2f}" if gain else "-",
                f"{gap.max_abs:.2e}" if gap else "-", f"{gap.max_rel:.2e}" if gap else "-",
                "-" if gap is None or gap.top1 is None else f"{gap.top1 * 100:.1f}",
                f"{model.session_ms:.1f}", f"{model.first_run_ms:.1f}",
                f"{model.file_bytes / 1e6:.2f}", str(stats.runs),
                "unstable" if stats.unstable else "",
            ]
        )  # fmt: skip
    return rows


def layer_head(result: BenchResult) -> list[str]:
    """The column names of the table of layers."""
    others = [model.name for model in result.models[1:]]
    return [
        "layer", *(f"{model.name} ms" for model in result.models),
        *(f"{name} speed-up" for name in others),
    ]  # fmt: skip


def layer_rows(result: BenchResult) -> list[list[str]]:
    """The text of the table of layers."""
    names = [model.name for model in result.models]
    return [
        [row.layer, *(_ms(row.ms.get(name)) for name in names)]
        + [f"{x:.2f}x" if (x := row.speed_up.get(n)) is not None else "-" for n in names[1:]]
        for row in result.layers
    ]


def conditions(result: BenchResult) -> str:
    """One line: on what and how the times were measured."""
    machine = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    load = machine.load_average[0] if machine.load_average else "?"
    return (
        f"{machine.cpu} ({', '.join(machine.flags) or 'no vector flags'}; {machine.cores} cores, "
        f"load {load}), {machine.system}; {versions}; device {result.device}, "
        f"{result.threads} thread(s), batch {result.batch}, spinning off, interleaved blocks of "
        f"{result.schedule.block}; {result.created}"
    )


def _markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in cells),
    ]


def to_markdown(result: BenchResult) -> str:
    """The result as Markdown: conditions, models, layers."""
    lines = [conditions(result), "", *_markdown_table(list(_MODEL_HEAD), model_rows(result))]
    if result.layers:
        lines += ["", "Profiled time by layer (fused layers count where their operator runs):", ""]
        lines += _markdown_table(layer_head(result), layer_rows(result))
    return "\n".join(lines) + "\n"


def to_csv(result: BenchResult, what: str = "models") -> str:
    """The ``models`` or the ``layers`` as CSV with full precision."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if what == "layers":
        names = [model.name for model in result.models]
        writer.writerow(layer_head(result))
        for row in result.layers:
            cells = [row.ms.get(n) for n in names] + [row.speed_up.get(n) for n in names[1:]]
            writer.writerow([row.layer, *("" if x is None else x for x in cells)])
        return stream.getvalue()
    stats = [f.name for f in dataclasses.fields(Stats)]
    gain = [f.name for f in dataclasses.fields(SpeedUp)]
    gap = [f.name for f in dataclasses.fields(Difference)]
    writer.writerow(
        ["name", "path", "device", "threads", "batch", "file_bytes", "session_ms", "first_run_ms",
         *stats, *(f"speed_up_{n}" for n in gain), *(f"difference_{n}" for n in gap)]
    )  # fmt: skip
    for model in result.models:
        cells = [getattr(model.stats, n) for n in stats]
        cells += [getattr(model.speed_up, n, None) for n in gain]
        cells += [getattr(model.difference, n, None) for n in gap]
        writer.writerow(
            [model.name, model.path, result.device, result.threads, result.batch, model.file_bytes,
             model.session_ms, model.first_run_ms, *("" if x is None else x for x in cells)]
        )  # fmt: skip
    return stream.getvalue()


def _rich(title: str, head: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=title)
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def model_table(result: BenchResult, every_column: bool = False) -> Table:
    """The models as a table for the terminal, one column a model: main rows, or every one."""
    wanted = ("median ms", "p90", "p99", "CoV %", "images/s", "speed-up", "95 % interval",
              "max diff", "top-1 same %", "note")  # fmt: skip
    models = model_rows(result)
    rows = [
        [name, *(model[number] for model in models)]
        for number, name in enumerate(_MODEL_HEAD)
        if number and (every_column or name in wanted)
    ]
    title = f"{result.device}, {result.threads} thread(s), batch {result.batch}"
    return _rich(title, ["", *(model[0] for model in models)], rows)


def layer_table(result: BenchResult) -> Table:
    """The layers as a table for the terminal."""
    return _rich("Profiled time by layer", layer_head(result), layer_rows(result))
