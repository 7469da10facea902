"""Which of the equivalent ONNX forms of a layer is the fastest here? By measurement.

A layer is timed between neighbours as it has them: a small 1x1 convolution before it, unless it
reads the net's input, and a pooling of single pixels after it, unless it is the net's output. So a
form that leaves onnxruntime's blocked channel layout pays for the way out and back. All forms of a
layer run interleaved in one measurement; one whose output differs is not taken.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from caffe_bridge.bench.session import make_session
from caffe_bridge.bench.timing import Schedule, measure
from caffe_bridge.errors import DataError
from caffe_bridge.graph import Shape, load_net
from caffe_bridge.layers.base import Layer
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import convert, forms_of
from caffe_bridge.schema import Record, format_text

SCHEDULE = Schedule(
    min_runs=30, min_seconds=0.15, warmup_runs=3, warmup_seconds=0.02, block=5, max_seconds=4.0
)
#: Largest difference from the portable form, relative to its largest value.
CLOSE = 1e-5
#: Another form must save this share of the portable form's time.
MARGIN = 0.03
_CHANNELS = 8


@dataclass(frozen=True)
class LayerForms:
    """What was measured of one layer.

    Attributes:
        layer: its name.
        type: its type.
        shape: shape of its bottom.
        ms: median milliseconds by form, neighbours included, the portable form first.
        differences: largest difference from the portable form's output by form, relative to the
            largest value of that output.
        best: the form to take.
    """

    layer: str
    type: str
    shape: Shape
    ms: dict[str, float]
    differences: dict[str, float]
    best: str

    @property
    def saved_ms(self) -> float:
        """Milliseconds that the best form saves."""
        return next(iter(self.ms.values())) - self.ms[self.best]


def choose(ms: dict[str, float], differences: dict[str, float]) -> str:
    """The fastest form that agrees, if it saves MARGIN of the first form's time; else the first."""
    first = next(iter(ms))
    best = min((form for form in ms if differences[form] <= CLOSE), key=lambda form: ms[form])
    return best if ms[best] <= ms[first] * (1.0 - MARGIN) else first


def between_neighbours(layer: Layer, shape: Shape, before: bool, after: bool) -> Net:
    """A net of one layer with its weights, on an input of that shape.

    Args:
        layer: the layer; it has one bottom.
        shape: shape of its bottom.
        before: put a convolution before it.
        after: put a pooling after it.
    """
    record = layer.spec.record.copy()
    for name in ("include", "exclude", "loss_weight", "param"):
        record.clear(name)
    record.name, record.bottom, record.top = "layer", ["source"], ["result"]
    entry = Record("LayerParameter", name="entry", type="Input", top=["entry"])
    size = list(shape)
    layers = [entry]
    if before:
        size[1] = _CHANNELS
        made = Record("LayerParameter", name="before", type="Convolution")
        made.bottom, made.top = ["entry"], ["source"]
        convolution = made.mutable("convolution_param")
        convolution.num_output, convolution.kernel_size = int(shape[1]), [1]
        convolution.mutable("weight_filler").type = "xavier"
        layers.append(made)
    else:
        entry.top = ["source"]
    entry.mutable("input_param").add("shape").dim = [int(n) for n in size]
    layers.append(record)
    if after:
        made = Record("LayerParameter", name="after", type="Pooling")
        made.bottom, made.top = ["result"], ["pooled"]
        made.mutable("pooling_param").kernel_size = 1
        layers.append(made)
    net = Record("NetParameter", name=layer.name)
    net.layer = layers
    built = Net(load_net(net), seed=0)
    for mine, theirs in zip(built.layer("layer").blobs, layer.blobs, strict=True):
        mine.data.copy_(theirs.data)
    return built.eval()


def time_forms(
    net: Net, forms: Sequence[str], threads: int, batch: int, schedule: Schedule = SCHEDULE,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[dict[str, float], dict[str, float]]:  # fmt: skip
    """Medians and differences of the forms of the layer called ``layer``."""
    with tempfile.TemporaryDirectory(prefix="caffe-bridge-forms-") as folder:
        sessions = {
            form: make_session(
                convert(net, f"{folder}/{form}.onnx", target="ort-cpu", forms={"layer": form}),
                threads, batch=batch,
            )
            for form in forms
        }  # fmt: skip
        outputs = {form: made.outputs() for form, made in sessions.items()}
        timings = measure(
            sessions, schedule.min_runs, schedule.min_seconds, schedule.warmup_runs,
            schedule.warmup_seconds, schedule.block, schedule.max_seconds, clock,
        )  # fmt: skip
    first = outputs[forms[0]]
    differences = {
        form: max(_difference(outputs[form][name], want) for name, want in first.items())
        for form in forms
    }
    return {form: timings[form].stats().median_ms for form in forms}, differences


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / max(1e-3, float(np.abs(want).max())))


def measure_forms(
    net: Net,
    threads: int = 1,
    batch: int = 1,
    schedule: Schedule = SCHEDULE,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Callable[[str], None] | None = None,
) -> list[LayerForms]:
    """Time the forms of every layer of a net that has a choice; equal layers only once.

    Args:
        net: the net, TEST phase, with its weights.
        threads: threads of one operator.
        batch: images of one run.
        schedule: how long to measure each layer.
        clock: nanoseconds that only grow; the process's own where others keep the machine busy.
        progress: told a line for each layer.

    Raises:
        DataError: less than one image.
        BridgeError: a form cannot be exported or run.
    """
    if batch < 1:
        raise DataError(f"batch is {batch}; give 1 or more images.")
    choices = forms_of(net)
    graph, shapes = net.built.graph, net.built.shapes
    own = next((shape[0] for shape in net.inputs.values() if shape), 1)
    read = {value.index for node in graph.nodes for value in node.inputs}
    fed = {v.index for v in graph.values if net.built.layers[v.producer].is_input}
    known: dict[object, tuple[dict[str, float], dict[str, float]]] = {}
    found = []
    for node, layer in zip(graph.nodes, net.built.layers, strict=True):
        forms = choices.get(layer.name)
        if forms is None or len(node.inputs) != 1 or len(node.outputs) != 1:
            continue
        shape = shapes[node.inputs[0].index]
        shape = (max(1, shape[0] * batch // own), *shape[1:])
        before = len(shape) == 4 and node.inputs[0].index not in fed
        after = node.outputs[0].index in read and len(shapes[node.outputs[0].index]) == 4
        key = (_text(layer), shape, before, after)
        if key not in known:
            lone = between_neighbours(layer, shape, before, after)
            known[key] = time_forms(lone, forms, threads, shape[0], schedule, clock)
        ms, differences = known[key]
        made = LayerForms(
            layer.name, layer.spec.type, shape, ms, differences, choose(ms, differences)
        )
        found.append(made)
        if progress is not None:
            times = ", ".join(f"{form} {value:.3f}" for form, value in ms.items())
            progress(f"{layer.name} ({layer.spec.type}): {times} ms; {made.best}")
    return found


def _text(layer: Layer) -> str:
    """The layer without its names."""
    record = layer.spec.record.copy()
    for name in ("name", "bottom", "top", "include", "exclude", "param", "blobs"):
        record.clear(name)
    return format_text(record)
