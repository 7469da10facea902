"""int8: the ONNX form of a net with QuantizeLinear and DequantizeLinear around its operators.

Weights are int8 with one scale for each filter, activations uint8 with one scale and zero point
each, from the ranges that :mod:`caffe_bridge.onnx_export.calibrate` finds. BatchNorm is folded
first. Layers that int8 spoils or that gain nothing (LRN, Softmax, ...) stay in float. The nodes are
put in by onnxruntime.quantization. Its int8 kernels add pairs of uint8 x int8 products in 16 bits
on CPUs without VNNI; there ``reduce_range`` keeps weights to 7 bits so that no sum saturates.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime import quantization
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from caffe_bridge.errors import BackendError, ExportError, printable
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.calibrate import METHODS, Feeds, Range, ranges
from caffe_bridge.onnx_export.export import DEFAULT_OPSET, export
from caffe_bridge.onnx_export.verify import session

#: Types of layers whose operators become int8.
QUANTIZED = (
    "Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", "DepthwiseConv",
    "InnerProduct", "BatchNorm", "Scale", "ReLU", "ReLU6", "PReLU", "Pooling", "Eltwise",
    "Concat", "Slice", "Split", "Flatten", "Reshape", "Dropout", "ShuffleChannel", "Permute",
)  # fmt: skip


def _float_layers(net: Net, exclude: Collection[str]) -> set[str]:
    """Layers that stay in float.

    Raises:
        ExportError: an excluded name is no layer.
    """
    names = [layer.name for layer in net.spec.layers]
    for name in exclude:
        if name not in names:
            raise ExportError(
                f"{net.spec.source}: has no layer '{name}' to leave in float; layers are "
                f"{', '.join(names)[:300]}."
            )
    return {x.name for x in net.spec.layers if x.type not in QUANTIZED} | set(exclude)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints and logs advice on its own steps."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _excluded_nodes(model: onnx.ModelProto, net: Net, layers: Collection[str]) -> list[str]:
    """Nodes of layers that stay in float; helper nodes are called ``layer/Op``."""
    known = {printable(layer.name) for layer in net.spec.layers}

    def owner(name: str) -> str:
        while name not in known and "/" in name:
            name = name.rpartition("/")[0]
        return name

    return [node.name for node in model.graph.node if owner(node.name) in layers]


def quantize(
    net: Net,
    feeds: Feeds,
    method: str = "minmax",
    exclude: Collection[str] = (),
    outputs: Sequence[str] | None = None,
    reduce_range: bool = False,
    opset: int = DEFAULT_OPSET,
) -> onnx.ModelProto:
    """The int8 form of a net.

    Args:
        net: TEST phase, with its weights and Input layers.
        feeds: calibration batches; all of a size that the net allows.
        method: minmax, percentile or entropy.
        exclude: names of layers that stay in float.
        outputs: blobs to give out.
        reduce_range: 7-bit weights.
        opset: operator set of the export.

    Raises:
        ExportError: the net cannot be exported, an unknown method or layer, or no feeds.
        BackendError: onnxruntime cannot calibrate or quantise the model.
    """
    if method not in METHODS:
        raise ExportError(f"calibration '{method}' is not known; use {', '.join(METHODS)}.")
    stay = {printable(name) for name in _float_layers(net, exclude)}
    feeds = [{printable(name): value for name, value in feed.items()} for feed in feeds]
    model = export(net, opset, outputs=outputs)
    names = [item.name for item in model.graph.input]
    if not feeds or any(name not in feed for feed in feeds for name in names):
        raise ExportError(
            f"{net.spec.source}: calibration needs batches of {', '.join(names)}; the source gives "
            f"{', '.join(feeds[0]) if feeds else 'none'}."
        )
    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, ready = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready"))
        plain.write_bytes(model.SerializeToString())
        try:
            quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
            prepared = onnx.load(ready)
            found = ranges(prepared, feeds, method)
            stayed = _excluded_nodes(prepared, net, stay)
            return _with_nodes(prepared, found, stayed, reduce_range)
        except Exception as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise BackendError(
                f"{net.spec.source}: onnxruntime cannot quantise it ({reason}); leave layers out "
                "with --exclude."
            ) from error


def _with_nodes(
    model: onnx.ModelProto, found: dict[str, Range], excluded: list[str], reduce_range: bool
) -> onnx.ModelProto:
    """The model with QuantizeLinear and DequantizeLinear put in."""
    limits = {
        name: (np.array(low, np.float32), np.array(high, np.float32))
        for name, (low, high) in found.items()
    }
    quantizer = QDQQuantizer(
        model, True, reduce_range, quantization.QuantType.QInt8, quantization.QuantType.QUInt8,
        TensorsData(quantization.CalibrationMethod.MinMax, limits), [], excluded,
        list(QDQRegistry), {},
    )  # fmt: skip
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    used = {node.domain for node in made.graph.node} | {""}
    imports = [item for item in made.opset_import if item.domain in used]
    del made.opset_import[:]
    made.opset_import.extend(imports)
    onnx.checker.check_model(made, full_check=True)
    return made


@dataclass(frozen=True)
class Agreement:
    """The int8 model against the float net.

    ``relative`` is the mean over the items of |difference| / |value| of the compared output,
    ``worst`` the largest single difference over the largest value. ``same`` is the share of items
    with the same largest entry; accuracies need labels.
    """

    output: str
    items: int
    relative: float
    worst: float
    same: float
    accuracy_float: float | None
    accuracy_int8: float | None


@torch.no_grad()
def agreement(
    net: Net, model: onnx.ModelProto, feeds: Feeds, label: str = "label", output: str | None = None
) -> Agreement:
    """Run both on the same batches.

    Args:
        net: the float net.
        model: its int8 form.
        feeds: batches; with an array ``label`` (N,) the accuracies are computed too.
        label: its name.
        output: the blob to compare; the model's first one with a class axis by default.

    Raises:
        ExportError: no feeds.
        BackendError: onnxruntime cannot run the model.
    """
    loaded = session(model)
    given = [item.name for item in loaded.get_outputs()]
    chosen = output or next((n for n in given if len(net.built.shapes[_index(net, n)]) > 1),
                            given[0])  # fmt: skip
    names = [item.name for item in loaded.get_inputs()]
    if not feeds:
        raise ExportError(f"{net.spec.source}: there is no batch to compare on.")
    gaps: list[float] = []
    same: list[float] = []
    right: list[tuple[float, float]] = []
    gap, largest = 0.0, 1e-12
    for feed in feeds:
        arrays = {name: np.asarray(feed[name], np.float32) for name in names}
        values = net.run({n: torch.from_numpy(np.array(a)) for n, a in arrays.items()})
        want = values[_index(net, chosen)].numpy()
        want = want.reshape(want.shape[0] if want.ndim else 1, -1)
        got = np.asarray(loaded.run([chosen], arrays)[0]).reshape(want.shape)
        size = np.maximum(np.linalg.norm(want, axis=1), 1e-12)
        gaps += (np.linalg.norm(got - want, axis=1) / size).tolist()
        gap, largest = max(gap, float(np.abs(got - want).max())), max(
            largest, float(np.abs(want).max())
        )  # fmt: skip
        same += (got.argmax(1) == want.argmax(1)).tolist()
        if label in feed:
            truth = np.asarray(feed[label]).reshape(-1)
            right += list(zip(want.argmax(1) == truth, got.argmax(1) == truth, strict=True))
    scores = np.array(right, float).mean(0) if right else None
    return Agreement(
        chosen, len(gaps), float(np.mean(gaps)), gap / largest, float(np.mean(same)),
        None if scores is None else float(scores[0]), None if scores is None else float(scores[1]),
    )  # fmt: skip


def _index(net: Net, name: str) -> int:
    return next(value.index for value in net.built.graph.values if value.name == name)
