"""int8: ranges, the quantised model, what stays in float, and the comparison with float."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from caffe_bridge.errors import BackendError, ExportError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from caffe_bridge.onnx_export.calibrate import (
    BINS,
    METHODS,
    Histogram,
    entropy_range,
    percentile_range,
    ranges,
)
from caffe_bridge.onnx_export.quantize import agreement, quantize
from caffe_bridge.onnx_export.verify import session

TEXT = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 16
  kernel_size: 3 weight_filler { type: "xavier" } bias_filler { type: "uniform" min: -1 } } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "n" type: "LRN" bottom: "c" top: "n" }
layer { name: "p" type: "Pooling" bottom: "n" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "f" type: "InnerProduct" bottom: "p" top: "f" inner_product_param { num_output: 10
  weight_filler { type: "gaussian" std: 0.2 } bias_filler { type: "uniform" min: -1 } } }
layer { name: "prob" type: "Softmax" bottom: "f" top: "prob" }
"""


@pytest.fixture(scope="module")
def net() -> Net:
    made = Net(parse_net(TEXT), seed=0)
    made.layer("bn").blobs[0].data.fill_(0.1)
    made.layer("bn").blobs[1].data.fill_(2.0)
    made.layer("bn").blobs[2].data.fill_(1.0)
    return made


def feeds(count: int = 3, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((4, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("method", METHODS)
def test_int8_answers_like_float(net: Net, method: str) -> None:
    model = quantize(net, feeds(), method)
    onnx.checker.check_model(model, full_check=True)
    found = agreement(net, model, feeds(25, seed=1))
    assert found.output == "prob" and found.items == 100
    assert 0 < found.relative < 0.1 and found.same >= 0.9
    assert found.accuracy_float is None
    kinds = [i.data_type for i in model.graph.initializer if len(i.dims) > 1]
    assert kinds.count(onnx.TensorProto.INT8) == 2


def quantised(model: onnx.ModelProto) -> set[str]:
    """Nodes that read only dequantised values and whose result is quantised."""
    nodes = model.graph.node
    ready = {o for n in nodes if n.op_type == "DequantizeLinear" for o in n.output}
    wanted = {n.input[0] for n in nodes if n.op_type == "QuantizeLinear"}
    return {n.name for n in nodes if set(n.input) <= ready and wanted & set(n.output)}


def test_what_stays_in_float(net: Net) -> None:
    assert quantised(quantize(net, feeds())) >= {"c", "f"}
    assert not any(name.startswith(("n/", "prob")) for name in quantised(quantize(net, feeds())))
    without = quantize(net, feeds(), exclude=["c"])
    assert "c" not in quantised(without) and "f" in quantised(without)
    # Two layers fewer in int8 come nearer.
    none = agreement(net, quantize(net, feeds(), exclude=["c", "r", "p", "f"]), feeds(5))
    assert none.relative < 1e-5 and none.same == 1


def test_outputs_labels_and_reduced_range(net: Net) -> None:
    model = quantize(net, feeds(), outputs=["f"], reduce_range=True)
    weight = next(i for i in model.graph.initializer if i.name.startswith("f.blob0_quant"))
    assert np.abs(onnx.numpy_helper.to_array(weight).astype(int)).max() <= 64
    given = feeds(4, seed=2)
    for feed in given:
        feed["label"] = np.arange(4, dtype=np.float32)
    found = agreement(net, model, given)
    assert found.output == "f"
    assert found.accuracy_float is not None and found.accuracy_int8 is not None
    assert abs(found.accuracy_float - found.accuracy_int8) <= 1 - found.same + 1e-9
    assert [o.name for o in session(model).get_outputs()] == ["f"]


def test_ranges_of_a_known_model(net: Net) -> None:
    model = export(net)
    given = feeds()
    found = ranges(model, given, "minmax")
    joint = np.concatenate([f["x"] for f in given])
    assert found["x"] == (float(joint.min()), float(joint.max()))
    assert found["c"][0] == 0 and set(found) > {"x", "n", "p", "f", "prob"}
    cut = ranges(model, given, "percentile")
    assert all(found[n][0] <= low and high <= found[n][1] for n, (low, high) in cut.items())


def normal(outlier: float = 0.0) -> Histogram:
    values = np.random.default_rng(0).standard_normal(200_000)
    values[0] = outlier or values[0]
    counts, edges = np.histogram(values, BINS)
    return Histogram(float(edges[0]), float(edges[-1]), counts)


def test_outliers_are_cut() -> None:
    assert entropy_range(normal(100.0))[1] < 50
    low, high = percentile_range(normal(100.0), 1e-3)
    assert -3.5 < low < -2.8 and 2.8 < high < 3.5
    uniform = Histogram(0.0, 1.0, np.full(BINS, 10))
    assert entropy_range(uniform) == (0, 1)
    low, high = percentile_range(uniform, 0.25)
    assert abs(low - 0.25) < 1e-3 and abs(high - 0.75) < 1e-3


def test_refusals(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match="calibration 'mean'"):
        quantize(net, feeds(), "mean")
    with pytest.raises(ExportError, match="has no layer 'q'"):
        quantize(net, feeds(), exclude=["q"])
    with pytest.raises(ExportError, match="needs batches of x; the source gives none"):
        quantize(net, [])
    with pytest.raises(ExportError, match="the source gives y"):
        quantize(net, [{"y": np.zeros(1)}])
    with pytest.raises(ExportError, match="no batch to compare"):
        agreement(net, quantize(net, feeds()), [])
    with pytest.raises(BackendError, match="cannot quantise"):
        quantize(net, [{"x": np.zeros((4, 2, 8, 8), np.float32)}])
