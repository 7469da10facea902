"""What an exported model looks like."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from caffe_bridge import __version__
from caffe_bridge.errors import BridgeError, ExportError
from caffe_bridge.layers.base import Layer
from caffe_bridge.layers.relu import ReLU
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import DEFAULT_OPSET, convert, export, newest_opset, save
from caffe_bridge.onnx_export.export import OLDEST_OPSET, expose
from caffe_bridge.onnx_export.verify import verify
from tests.onnx_export.nets import SMALL, conv, dims, entry, fc, layer, names, net

MODULE = sys.modules["caffe_bridge.onnx_export.export"]


def props(model: onnx.ModelProto) -> dict[str, str]:
    return {p.key: p.value for p in model.metadata_props}


def agrees(made: Net, model: onnx.ModelProto) -> None:
    assert verify(made, model, every_blob=True).require("test").differences


def test_names_are_caffes() -> None:
    model = export(net('name: "small"\n' + SMALL))
    graph = model.graph
    assert graph.name == "small"
    assert names(graph.input) == ["data"]
    assert names(graph.output) == ["prob"]
    assert names(graph.value_info) == ["conv1@conv1", "conv1", "ip"]
    layers = json.loads(props(model)["caffe_layers"])
    assert list(layers) == names(graph.node)
    assert list(dict.fromkeys(layers.values())) == ["conv1", "relu1", "ip", "prob"]
    assert {"conv1", "relu1", "ip", "prob"} <= set(layers)
    assert {"conv1.blob0", "conv1.blob1", "ip.blob0", "ip.blob1"} <= set(names(graph.initializer))


def test_values_overwritten_in_place_are_named_after_their_layer() -> None:
    text = SMALL.replace(
        layer("ReLU", "relu1", "conv1", "conv1"),
        layer("ReLU", "relu1", "conv1", "conv1") + layer("Power", "double", "conv1", "conv1",
                                                         "power_param { scale: 2 }"),
    )  # fmt: skip
    graph = export(net(text)).graph
    assert names(graph.value_info)[:3] == ["conv1@conv1", "conv1@relu1", "conv1"]
    agrees(net(text), export(net(text)))


def test_metadata() -> None:
    model = export(net('name: "small"\n' + SMALL))
    assert (model.producer_name, model.producer_version) == ("caffe_bridge", __version__)
    assert props(model)["caffe_net"] == "small"
    assert props(model)["dynamic_batch"] == "true"
    assert props(export(net(SMALL), dynamic_batch=False))["dynamic_batch"] == "false"
    assert export(net(SMALL)).graph.name == "net"


@pytest.mark.parametrize("opset", range(OLDEST_OPSET, newest_opset() + 1))
def test_opsets(opset: int) -> None:
    model = export(net(SMALL), opset)
    assert [(i.domain, i.version) for i in model.opset_import] == [("", opset)]
    assert model.ir_version == helper.find_min_ir_version_for(model.opset_import)


@pytest.mark.parametrize("opset", [0, OLDEST_OPSET - 1, newest_opset() + 1])
def test_opsets_out_of_range(opset: int) -> None:
    limits = f"use {OLDEST_OPSET} to {newest_opset()}"
    with pytest.raises(ExportError, match=f"opset {opset} is not supported; {limits}"):
        export(net(SMALL), opset)


def test_dynamic_and_static_batch() -> None:
    graph = export(net(SMALL)).graph
    assert dims(graph.input[0]) == ["N", 3, 6, 6]
    assert dims(graph.output[0]) == ["N", 3]
    graph = export(net(SMALL), dynamic_batch=False).graph
    assert dims(graph.input[0]) == [2, 3, 6, 6]
    assert dims(graph.output[0]) == [2, 3]


def test_multiples_of_the_batch() -> None:
    text = entry("data", 2, 3, 4) + layer(
        "Reshape", "rows", "data", "rows", "reshape_param { shape { dim: -1 dim: 4 } }"
    )
    model = export(net(text))
    assert dims(model.graph.output[0]) == ["N*3", 4]
    agrees(net(text), model)


def test_a_net_that_forbids_other_batches_is_static() -> None:
    text = entry("data", 2, 6) + layer(
        "Reshape", "r", "data", "r", "reshape_param { shape { dim: 2 dim: 3 dim: 2 } }"
    )
    model = export(net(text))
    assert dims(model.graph.input[0]) == [2, 6]
    assert props(model)["dynamic_batch"] == "false"
    done = verify(net(text), model)
    assert done.batches == (2,)
    assert done.passed


def test_a_batch_that_ends_in_a_sum_of_sizes_is_static() -> None:
    """One size that is neither fixed nor a multiple of the batch makes the whole net static."""
    text = (
        entry("data", 2, 3)
        + layer("DummyData", "more", "", "more", "dummy_data_param { shape { dim: 1 dim: 3 } }")
        + layer("Concat", "both", "data more", "both", "concat_param { axis: 0 }")
    )
    graph = export(net(text)).graph
    assert dims(graph.output[0]) == [3, 3]


def test_inputs_of_different_batches_are_static() -> None:
    text = entry("data", 2, 3) + entry("rois", 5, 3) + layer("ReLU", "a", "data", "a")
    text += layer("ReLU", "b", "rois", "b")
    graph = export(net(text)).graph
    assert [dims(value) for value in graph.input] == [[2, 3], [5, 3]]
    agrees(net(text), export(net(text)))


def test_several_inputs_share_the_batch() -> None:
    text = entry("a", 2, 3) + entry("b", 2, 3) + layer("Eltwise", "sum", "a b", "sum")
    graph = export(net(text)).graph
    assert [dims(value) for value in graph.input] == [["N", 3], ["N", 3]]
    agrees(net(text), export(net(text)))


def test_unread_inputs_are_left_out() -> None:
    text = entry("data", 2, 3) + entry("label", 2) + layer("ReLU", "a", "data", "a")
    graph = export(net(text)).graph
    assert names(graph.input) == ["data"]
    assert names(graph.output) == ["a"]


def test_outputs_leave_out_what_they_do_not_need() -> None:
    model = export(net(SMALL), outputs=["conv1"])
    assert names(model.graph.output) == ["conv1"]
    assert names(model.graph.node) == ["conv1", "relu1"]
    assert names(model.graph.initializer) == ["conv1.blob0", "conv1.blob1"]
    assert list(json.loads(props(model)["caffe_layers"])) == ["conv1", "relu1"]
    agrees(net(SMALL), model)


def test_outputs_keep_their_order_and_come_once() -> None:
    graph = export(net(SMALL), outputs=["prob", "ip", "prob"]).graph
    assert names(graph.output) == ["prob", "ip"]
    assert "ip" not in names(graph.value_info)


def test_unknown_outputs() -> None:
    with pytest.raises(ExportError, match="no blob 'none'; blobs are data, conv1, ip, prob"):
        export(net(SMALL), outputs=["none"])


def test_outputs_that_are_inputs() -> None:
    with pytest.raises(ExportError, match="'data' is an input"):
        export(net(SMALL), outputs=["prob", "data"])


def test_a_net_of_inputs_only() -> None:
    with pytest.raises(ExportError, match="computes no output; it has 1 blobs"):
        export(net(entry("data", 2, 3)))


def test_an_input_overwritten_in_place_is_an_output() -> None:
    text = entry("data", 2, 3) + layer("ReLU", "relu", "data", "data")
    graph = export(net(text)).graph
    assert names(graph.input) == ["data@data"]
    assert names(graph.output) == ["data"]


def test_an_output_that_only_passes_on_gets_an_identity() -> None:
    text = SMALL + layer("Dropout", "drop", "prob", "out")
    model = export(net(text))
    node = model.graph.node[-1]
    assert (node.op_type, node.name, list(node.input)) == ("Identity", "drop", ["prob"])
    agrees(net(text), model)


def test_layers_that_only_pass_on_make_no_node() -> None:
    text = SMALL.replace('bottom: "ip" top: "prob"', 'bottom: "drop" top: "prob"')
    text = text.replace(layer("Softmax", "prob", "drop", "prob"), "")
    text += layer("Dropout", "drop", "ip", "drop") + layer("Softmax", "prob", "drop", "prob")
    graph = export(net(text)).graph
    assert list(graph.node[-1].input) == ["ip"]
    assert "drop" not in names(graph.value_info)


def test_shared_blobs_are_stored_once() -> None:
    share = 'param { name: "w" } param { name: "b" }'
    text = entry("a", 2, 4) + entry("b", 2, 4) + fc("left", "a", "x", more=share)
    text += fc("right", "b", "y", more=share)
    model = export(net(text))
    assert names(model.graph.initializer) == ["left.blob0", "left.blob1"]
    agrees(net(text), model)


def test_layers_of_one_name() -> None:
    text = entry("data", 2, 4) + fc("same", "data", "a", 5) + fc("same", "a", "b", 6)
    text += layer("ReLU", "same", "b", "c")
    model = export(net(text))
    assert names(model.graph.node)[-1] == "same#2"
    assert {"same", "same#1"} <= set(names(model.graph.node))
    assert set(names(model.graph.initializer)) == {
        "same.blob0", "same.blob1", "same#1.blob0", "same#1.blob1",
    }  # fmt: skip
    agrees(net(text), model)


def test_a_layer_named_like_the_helper_of_another() -> None:
    """Node names stay unique, so that a profile maps back to the layers."""
    text = entry("data", 2, 3, 4, 4) + layer("Normalize", "n", "data", "a")
    helpers = [n for n in names(export(net(text)).graph.node) if "/" in n]
    assert helpers
    text += "".join(
        layer("ReLU", name, "a" if not i else f"r{i - 1}", f"r{i}")
        for i, name in enumerate(helpers)
    )
    model = export(net(text))
    found = names(model.graph.node)
    assert len(set(found)) == len(found)
    layers = json.loads(props(model)["caffe_layers"])
    assert list(layers.values())[-len(helpers) :] == helpers


def test_a_layer_without_a_name_is_called_by_its_type() -> None:
    text = entry("data", 2, 3) + layer("ReLU", "", "data", "a")
    assert names(export(net(text)).graph.node) == ["ReLU"]


def test_weights_are_the_nets() -> None:
    made = net(SMALL)
    found = {t.name: numpy_helper.to_array(t) for t in export(made).graph.initializer}
    for blob in made.learnable:
        want = blob.value.detach().numpy()
        np.testing.assert_array_equal(found[f"{blob.layer}.blob{blob.index}"].reshape(want.shape),
                                      want)  # fmt: skip


def test_every_model_passes_the_strict_check() -> None:
    onnx.checker.check_model(export(net(SMALL)), full_check=True)


def test_expose_gives_out_every_value() -> None:
    model = export(net(SMALL))
    assert names(expose(model).graph.output) == ["prob", "conv1@conv1", "conv1", "ip"]
    assert names(model.graph.output) == ["prob"]
    onnx.checker.check_model(expose(model), full_check=True)


def test_more_than_two_gigabytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = net(SMALL)
    size = sum(blob.value.numel() for blob in made.learnable) * 4
    monkeypatch.setattr(MODULE, "_SIZE_LIMIT", size - 1)
    with pytest.raises(ExportError, match=r"the weights take \d+ bytes, more than the 2 GB"):
        export(made)
    monkeypatch.setattr(MODULE, "_SIZE_LIMIT", size + 10)
    with pytest.raises(ExportError, match="more than the 2 GB"):
        export(made)


def test_a_layer_that_emits_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReLU, "emit", lambda *_: None)
    with pytest.raises(ExportError, match=r"relu1 \(ReLU\).*emits no node that makes conv1"):
        export(net(SMALL))


def test_what_onnx_refuses_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ReLU, "emit", lambda _self, e, bottoms, tops: e.op("NoSuchOp", bottoms, tops) and None
    )
    with pytest.raises(ExportError, match="onnx refuses the exported model"):
        export(net(SMALL))


def test_a_layer_without_onnx_form_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReLU, "emit", Layer.emit)
    with pytest.raises(ExportError, match=r"relu1 \(ReLU\).*has no ONNX form"):
        export(net(SMALL))


def test_save_and_convert_write_whole_files(tmp_path: Path) -> None:
    made = net(SMALL)
    model = export(made)
    path = save(model, tmp_path / "a.onnx")
    assert path.read_bytes() == model.SerializeToString()
    assert convert(made, tmp_path / "b.onnx", 13) == tmp_path / "b.onnx"
    assert onnx.load(tmp_path / "b.onnx").opset_import[0].version == 13
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]
    with pytest.raises(BridgeError, match="no such folder"):
        convert(made, tmp_path / "none" / "c.onnx")
    with pytest.raises(ExportError):
        convert(made, tmp_path / "c.onnx", 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_export_is_deterministic() -> None:
    one, two = (export(net(SMALL)).SerializeToString() for _ in range(2))
    assert one == two


def test_defaults() -> None:
    assert export(net(SMALL)).opset_import[0].version == DEFAULT_OPSET == 17


def test_parameters_count_as_entries_without_batch() -> None:
    text = entry("data", 2, 3)
    text += layer("Parameter", "p", "", "w", "parameter_param { shape { dim: 2 dim: 3 } }")
    text += layer("Eltwise", "sum", "data w", "sum")
    made = net(text)
    graph = export(made).graph
    assert names(graph.input) == ["data"]
    assert dims(graph.output[0]) == [2, 3]


def test_grouped_convolution_keeps_its_name() -> None:
    text = entry("data", 1, 4, 6, 6) + conv("dw", "data", "dw", 4, "group: 4")
    node = export(net(text)).graph.node[0]
    assert (node.name, node.op_type) == ("dw", "Conv")
