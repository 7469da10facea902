"""Node names of the optimised graph, folded back to layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_bridge.bench import compare_layers, profile_models
from caffe_bridge.bench.onnx_graph import RUNTIME, LayerMap, OnnxNode, read_nodes
from caffe_bridge.bench.profile import fold_events
from caffe_bridge.compress import DECOMPOSITIONS, LayerPlan, Plan, rewrite
from caffe_bridge.errors import DataError, SchemaError
from tests.bench.models import Graph, small_net
from tests.compress.checks import CONV, GAUSS, filled, net_text

LAYERS = ["conv1", "relu1", "pool1", "norm1", "conv2", "scale2", "relu2", "ip1", "relu3", "ip2",
          "prob"]  # fmt: skip
#: Layers whose operator surely runs by itself.
BUSY = ("conv1", "pool1", "norm1", "conv2", "ip1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_net(tmp_path_factory.mktemp("onnx") / "net.onnx")


def test_read_nodes(model: Path) -> None:
    nodes = read_nodes(model)
    assert nodes[0] == OnnxNode(
        "conv1", "Conv", ("data", "conv1.w", "conv1.b"), ("conv1@conv1",)
    )  # fmt: skip
    assert [node.op_type for node in nodes[-4:]] == ["Gemm", "Relu", "Gemm", "Softmax"]


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\x3a\xff\xff\x01 cut")
    with pytest.raises(SchemaError, match="is no ONNX model"):
        read_nodes(path)


def test_all_layers_are_covered_and_nothing_is_lost(model: Path) -> None:
    found = profile_models({"net": model}, batch=8, runs=15)["net"]
    names = [name for name in found.layers if name != RUNTIME]
    assert names == LAYERS
    assert all(found.layers[name] > 0 for name in BUSY)
    assert sum(found.layers.values()) == pytest.approx(found.total_ms, rel=0.2)
    assert found.layers.get(RUNTIME, 0.0) == pytest.approx(sum(found.runtime.values()), abs=0.01)
    assert found.layers.get(RUNTIME, 0.0) < 0.2 * found.total_ms
    assert all(found.layers[name] == 0 for name in ("relu1", "relu3"))


def test_without_the_metadata_names_serve(tmp_path: Path) -> None:
    g = Graph()
    g.conv("data", "a", "inception/1x1", 16, 3, 3)
    g.op("Sigmoid", ["a"], "b", "sig")
    g.op("Flatten", ["b"], "f", "ip/Flatten")
    g.op("MatMul", ["f", g.constant("w", 16 * 256, 4)], "m", "ip/MatMul")
    g.op("Add", ["m", g.constant("c", 4)], "out", "ip")
    path = g.write(tmp_path / "plain.onnx", "out")
    times = profile_models({"net": path}, runs=5)["net"].layers
    assert [name for name in times if name != RUNTIME] == ["inception/1x1", "sig", "ip"]
    assert times["inception/1x1"] > 0
    assert times["ip"] > 0


def test_models_profiled_together_keep_their_own_layers(model: Path, tmp_path: Path) -> None:
    low = small_net(tmp_path / "low.onnx", lowrank=True)
    found = profile_models({"dense": model, "low": low}, runs=4)
    assert [name for name in found["dense"].layers if name != RUNTIME] == LAYERS
    parts = [name for name in found["low"].layers if name.startswith("conv2")]
    assert parts == ["conv2_lowrank", "conv2_linear"]
    assert all(found["low"].layers[name] > 0 for name in parts)


NODES = [
    OnnxNode("conv1", "Conv", ("data",), ("c1@conv1",)),
    OnnxNode("relu1", "Relu", ("c1@conv1",), ("c1",)),
    OnnxNode("pool1", "MaxPool", ("c1",), ("p1",)),
    OnnxNode("conv10", "Conv", ("p1",), ("conv1",)),
    OnnxNode("ip/MatMul", "MatMul", ("conv1",), ("m",)),
    OnnxNode("ip", "Add", ("m",), ("y",)),
    OnnxNode("a/b", "Conv", ("y",), ("z",)),
    OnnxNode("", "LRN", ("z",), ("n",)),
]


@pytest.mark.parametrize(
    ("name", "op_type", "layer"),
    [
        ("conv1", "FusedConv", "conv1"),
        ("c1_nchwc", "Conv", "conv1"),
        ("p1_nchwc", "MaxPool", "pool1"),
        ("conv1_nchwc", "Conv", "conv10"),  # a value, not the node of that name
        ("conv1_token_27", "QLinearConv", "conv1"),
        ("pool1_token_36", "NhwcMaxPool", "pool1"),
        ("fused ip/MatMul/MatMulAddFusion", "FusedGemm", "ip"),
        ("fused ip/MatMul/MatMulAddFusion/", "FusedGemm", "ip"),
        ("a/b", "Conv", "a/b"),
        ("a/b/duplicated", "Conv", "a/b"),
        ("a/b_new_suffix", "Conv", "a/b"),
        ("LRN_7", "LRN", "n"),
        ("fused ", "FusedGemm", "(FusedGemm)"),
        ("ReorderOutput_token_11", "ReorderOutput", RUNTIME),
        ("c1_QuantizeLinear", "QuantizeLinear", RUNTIME),
        ("Transpose_token_29", "Transpose", RUNTIME),
        ("conv", "Cast", RUNTIME),
    ],
)
def test_names_of_the_optimiser(name: str, op_type: str, layer: str) -> None:
    assert LayerMap(NODES).find(name, op_type) == layer


def event(name: str, duration: int, op_type: str = "Conv") -> dict:
    return {"cat": "Node", "name": name, "dur": duration, "args": {"op_name": op_type}}


def test_medians_leave_out_the_first_runs_and_other_events() -> None:
    events: list[dict] = [{"cat": "Session", "name": "session_initialization", "dur": 9999}]
    for first in (5000, 1000, 3000, 2000):
        events += [
            event("c1_nchwc_kernel_time", first),
            event("c1_nchwc_fence_after", 77777),
            event("ReorderOutput_kernel_time", 10, "ReorderOutput"),
            event("ip/MatMul_kernel_time", 30, "MatMul"),
            event("ip_kernel_time", 12, "Add"),
            {"cat": "Session", "name": "model_run", "dur": first + 100, "args": {}},
        ]
    found = fold_events(events, LayerMap(NODES), skip=1)
    assert found.layers["conv1"] == 2.0
    assert found.layers["ip"] == pytest.approx(0.042)
    assert found.layers["pool1"] == 0.0
    assert list(found.layers)[-1] == RUNTIME
    assert found.runtime == {"ReorderOutput": 0.01}
    assert found.total_ms == 2.1
    with pytest.raises(DataError, match="4 runs, 4 of them"):
        fold_events(events, LayerMap(NODES), skip=4)


def test_decomposed_layers_line_up_with_the_whole() -> None:
    whole = {"conv1": 1.0, "conv2": 4.0, "fc_linear": 2.0, RUNTIME: 0.5}
    parts = {"conv1_v": 0.3, "conv1_h": 0.2, "conv2_lowrank": 1.5, "conv2_linear": 0.5,
             "fc_linear": 1.0, RUNTIME: 0.4, "extra": 0.1}  # fmt: skip
    rows = {row.layer: row for row in compare_layers(whole, parts)}
    assert list(rows) == ["conv1", "conv2", "fc_linear", "extra", RUNTIME]
    assert rows["conv1"].speed_up == pytest.approx(2.0)
    assert (rows["conv2"].candidate_ms, rows["conv2"].speed_up) == (2.0, 2.0)
    assert rows["fc_linear"].speed_up == 2.0
    assert (rows["extra"].baseline_ms, rows["extra"].speed_up) == (None, None)
    back = {row.layer: row.speed_up for row in compare_layers(parts, whole)}
    assert back["conv2"] == pytest.approx(0.5)


@pytest.mark.parametrize("method", DECOMPOSITIONS.names())
def test_the_parts_of_every_decomposition_count_as_the_layer(method: str) -> None:
    conv = CONV.format(f"num_output: 4 kernel_size: 3 {GAUSS}")
    record, weights = filled(net_text((1, 4, 5, 5), conv))
    rank = (2, 2) if method == "tucker" else 2
    made, _ = rewrite(record, weights, Plan([LayerPlan("c", method, rank)]))
    times = {layer.name: 0.5 for layer in made.layer if layer.type != "Input"}
    assert len(times) > 1
    (row,) = compare_layers({"c": 4.0}, times)
    assert (row.layer, row.candidate_ms) == ("c", 0.5 * len(times))


def test_times_below_the_resolution_give_no_ratio() -> None:
    (row,) = compare_layers({"a": 0.004}, {"a": 0.002})
    assert (row.baseline_ms, row.candidate_ms, row.speed_up) == (0.004, 0.002, None)


def test_both_decomposed_stay_apart() -> None:
    times = {"c_lowrank": 1.0, "c_linear": 2.0}
    assert [row.layer for row in compare_layers(times, times)] == ["c_lowrank", "c_linear"]
