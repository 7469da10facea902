"""The time of one layer, or of the layers that replace it, as a net of its own.

The net goes through the package's own export, with the shape that the layer really reads, and is
timed as any other model: stated threads, no spinning, all optimisations. The weights are small
random numbers, because time does not depend on them.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from caffe_bridge.bench import BenchSession, make_session
from caffe_bridge.compress.latency.forms import Form
from caffe_bridge.compress.target import Target
from caffe_bridge.graph import Shape, load_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import convert
from caffe_bridge.schema import Record

_BLOCKS = 5
_RUNS = 5
_BLOCK_SECONDS = 0.015
_SWEEP_BYTES = 64 * 2**20


def layer_key(target: Target, shape: Shape) -> str:
    """Everything about a layer that its time depends on."""
    size = "x".join(map(str, shape))
    head = f"{target.type} {size} n{target.num_output} bias{int(target.bias is not None)}"
    if target.is_fc:
        transposed = int(bool(target.record.inner_product_param.transpose))
        return f"{head} k{target.inputs} t{transposed}"
    window = target.window
    parts = zip("kspd", (window.kernel, window.stride, window.pad, window.dilation), strict=True)
    sizes = " ".join(letter + "x".join(map(str, values)) for letter, values in parts)
    return f"{head} {sizes} g{target.group}"


def fill_small(net: Net, names: Sequence[str] | None = None) -> None:
    """Give weights uniform values of the scale that keeps activations alike; in place.

    Args:
        net: the net.
        names: layers to fill; all when None.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in net.built.layers:
            if names is not None and layer.name not in names:
                continue
            for blob in layer.blobs:
                if blob.dim() > 1:
                    bound = math.sqrt(3.0 / max(blob[0].numel(), 1))
                    blob.uniform_(-bound, bound, generator=generator)


def single_net(target: Target, form: Form | None, shape: Shape) -> Net:
    """A net of the layer alone (``form`` None) or of its form, on an input of that shape."""
    layer = target.record.copy()
    layer.clear("include")
    layer.clear("exclude")
    layer.clear("loss_weight")
    layer.bottom, layer.top = ["data"], ["out"]
    entry = Record("LayerParameter", name="data", type="Input", top=["data"])
    entry.mutable("input_param").add("shape").dim = [int(size) for size in shape]
    record = Record("NetParameter", name=target.name)
    made = [layer] if form is None else form.method.records(layer, form.rank)
    record.layer = [entry, *made]
    net = Net(load_net(record), weights=None, seed=0)
    fill_small(net)
    return net.eval()


def _median(made: BenchSession, runs: int, sweep: np.ndarray | None) -> float:
    times = []
    for _ in range(runs):
        if sweep is not None:
            sweep += 1
        start = time.perf_counter_ns()
        made.run()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1e6


def time_net(net: Net, batch: int, threads: int, device: str = "cpu", cold: bool = False) -> float:
    """Milliseconds of a small net: the least of several medians.

    Args:
        net: what to time.
        batch: images of one run.
        threads: threads of one operator.
        device: "cpu" or "cuda".
        cold: sweep the caches between runs, as the rest of a net does with large weights.
    """
    sweep = np.zeros(_SWEEP_BYTES // 4, np.float32) if cold else None
    with tempfile.TemporaryDirectory() as folder:
        made = make_session(convert(net, Path(folder) / "layer.onnx"), threads, device, batch=batch)
        once = max(_median(made, 2, None) / 1e3, 1e-6)
        runs = 3 if cold else int(min(max(_BLOCK_SECONDS / once, 3), 8 * _RUNS))
        best = math.inf
        for _ in range(_BLOCKS if once < 0.02 else 3):
            best = min(best, _median(made, runs, sweep))
    return best
