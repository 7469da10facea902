"""The verbs convert and verify."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from caffe_bridge.onnx_export import newest_opset
from tests.cli.nets import HEAD, NET, call

Capture = pytest.CaptureFixture[str]
CONVERT = ("convert", "net.prototxt", "net.caffemodel", "-o", "net.onnx")
V1 = """name: "old"
input: "data" input_dim: 2 input_dim: 3 input_dim: 6 input_dim: 6
layers {
  name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 }
}
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers {
  name: "ip" type: INNER_PRODUCT bottom: "conv1" top: "ip" inner_product_param { num_output: 5 }
}
layers { name: "prob" type: SOFTMAX bottom: "ip" top: "prob" }
"""
V0 = """name: "older"
input: "data" input_dim: 2 input_dim: 3 input_dim: 6 input_dim: 6
layers {
  layer { name: "conv1" type: "conv" num_output: 4 kernelsize: 3 } bottom: "data" top: "conv1"
}
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "ip" type: "innerproduct" num_output: 5 } bottom: "conv1" top: "ip" }
layers { layer { name: "prob" type: "softmax" } bottom: "ip" top: "prob" }
"""


def test_convert_and_verify(folder: Path, capsys: Capture) -> None:
    result = call(capsys, *CONVERT, "--verify")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith("prob at batch 1: largest relative difference ")
    assert lines[2].startswith("verified 4 blobs at batch 1, 3; worst output ")
    assert lines[3] == f"net.onnx: opset 17, {Path('net.onnx').stat().st_size:,} bytes"
    onnx.checker.check_model("net.onnx", full_check=True)
    result = call(capsys, "verify", "net.prototxt", "net.caffemodel", "net.onnx")
    assert result.status == 0
    assert result.out.splitlines()[-1].endswith(": same")


def test_json(folder: Path, capsys: Capture) -> None:
    report = call(capsys, *CONVERT, "--verify", "--json", "--batch", "2,5", "--seed", 3).json
    assert report["onnx"] == "net.onnx"
    assert report["opset"] == 17
    assert report["bytes"] == Path("net.onnx").stat().st_size
    assert report["batches"] == [2, 5]
    assert report["blobs_compared"] == 4
    assert [(o["blob"], o["batch"]) for o in report["outputs"]] == [("prob", 2), ("prob", 5)]
    assert all(o["relative"] <= 1e-4 for o in report["outputs"])
    report = call(capsys, "verify", "net.prototxt", "net.caffemodel", "net.onnx", "--json").json
    assert report["passed"] is True
    assert {d["blob"] for d in report["differences"]} == {"prob"}
    assert report["worst"] <= 1e-4


def test_convert_without_verify_compares_nothing(folder: Path, capsys: Capture) -> None:
    assert call(capsys, *CONVERT).out.startswith("net.onnx: opset 17, ")
    assert "outputs" not in call(capsys, *CONVERT, "--json").json


@pytest.mark.parametrize(("given", "opset"), [("13", 13), ("latest", newest_opset())])
def test_opset(given: str, opset: int, folder: Path, capsys: Capture) -> None:
    result = call(capsys, *CONVERT, "--verify", "--opset", given)
    assert result.status == 0
    assert onnx.load("net.onnx").opset_import[0].version == opset


def test_static(folder: Path, capsys: Capture) -> None:
    result = call(capsys, *CONVERT, "--verify", "--static")
    assert "verified 4 blobs at batch 2;" in result.out
    shape = onnx.load("net.onnx").graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [2, 3, 6, 6]
    other = NET.replace("dim: 2", "dim: 7")
    Path("seven.prototxt").write_text(other)
    result = call(capsys, "verify", "seven.prototxt", "net.caffemodel", "net.onnx")
    assert result.status == 0
    assert "prob at batch 2" in result.out


def test_output_blob_leaves_out_what_it_does_not_need(folder: Path, capsys: Capture) -> None:
    result = call(capsys, *CONVERT, "--verify", "--output-blob", "conv1")
    assert result.status == 0
    graph = onnx.load("net.onnx").graph
    assert [o.name for o in graph.output] == ["conv1"]
    assert sorted(i.name for i in graph.initializer) == ["conv1.blob0", "conv1.blob1"]
    assert call(capsys, "verify", "net.prototxt", "net.caffemodel", "net.onnx").status == 0


def test_several_outputs_keep_their_order(folder: Path, capsys: Capture) -> None:
    call(capsys, *CONVERT, "--output-blob", "prob", "--output-blob", "ip", "--output-blob", "ip")
    assert [o.name for o in onnx.load("net.onnx").graph.output] == ["prob", "ip"]


def test_input_replaces_the_data_layer(folder: Path, capsys: Capture) -> None:
    convert = ("convert", "train_val.prototxt", "net.caffemodel", "-o", "tv.onnx", "--verify")
    result = call(capsys, *convert, "--input", "data=1,3,6,6", "--output-blob", "ip")
    assert (result.status, result.err) == (0, "")
    graph = onnx.load("tv.onnx").graph
    assert [i.name for i in graph.input] == ["data"]
    result = call(capsys, "verify", "train_val.prototxt", "net.caffemodel", "tv.onnx",
                  "--input", "data=1,3,6,6")  # fmt: skip
    assert result.status == 0


def test_losses_convert_with_their_labels(folder: Path, capsys: Capture) -> None:
    result = call(capsys, "convert", "train_val.prototxt", "net.caffemodel", "-o", "tv.onnx",
                  "--verify", "--input", "data=4,3,6,6", "--input", "label=4")  # fmt: skip
    assert result.status == 0
    graph = onnx.load("tv.onnx").graph
    assert sorted(i.name for i in graph.input) == ["data", "label"]
    assert sorted(o.name for o in graph.output) == ["accuracy", "loss"]


@pytest.mark.parametrize("text", [V1, V0], ids=["V1", "V0"])
def test_old_nets(text: str, folder: Path, capsys: Capture) -> None:
    Path("old.prototxt").write_text(text)
    assert call(capsys, *CONVERT).status == 0
    result = call(capsys, "convert", "old.prototxt", "net.caffemodel", "-o", "old.onnx", "--verify")
    assert result.status == 0
    new, old = (onnx.load(f"{name}.onnx").graph for name in ("net", "old"))
    assert [n.name for n in old.node] == [n.name for n in new.node]
    for one, two in zip(new.initializer, old.initializer, strict=True):
        assert numpy_helper.to_array(one).tobytes() == numpy_helper.to_array(two).tobytes()


def test_hdf5_weights(folder: Path, capsys: Capture) -> None:
    assert call(capsys, "init", "net.prototxt", "-o", "w.caffemodel.h5").status == 0
    result = call(capsys, "convert", "net.prototxt", "w.caffemodel.h5", "-o", "h.onnx", "--verify")
    assert result.status == 0
    assert call(capsys, *CONVERT).status == 0
    assert Path("h.onnx").read_bytes() == Path("net.onnx").read_bytes()


def test_stage_and_level(folder: Path, capsys: Capture) -> None:
    Path("staged.prototxt").write_text(
        NET + 'layer { name: "double" type: "Power" bottom: "prob" top: "double" '
        'power_param { scale: 2 } include { stage: "deploy" min_level: 1 } }'
    )
    convert = ("convert", "staged.prototxt", "net.caffemodel", "-o", "s.onnx")
    assert call(capsys, *convert, "--stage", "deploy", "--level", 1, "--verify").status == 0
    assert onnx.load("s.onnx").graph.output[0].name == "double"
    assert call(capsys, *convert).status == 0
    assert onnx.load("s.onnx").graph.output[0].name == "prob"


def test_input_shapes_of_a_net_without_any(folder: Path, capsys: Capture) -> None:
    text = NET.replace("input_param { shape {dim: 2 dim: 3 dim: 6 dim: 6} }", "")
    Path("bare.prototxt").write_text(text)
    convert = ("convert", "bare.prototxt", "net.caffemodel", "-o", "b.onnx")
    result = call(capsys, *convert)
    assert result.status == 1
    assert "--input name=1,3,224,224" in result.err
    assert call(capsys, *convert, "--input", "data=1,3,6,6", "--verify").status == 0


def test_verify_tells_different_models(folder: Path, capsys: Capture) -> None:
    assert call(capsys, "init", "net.prototxt", "-o", "other.caffemodel", "--seed", 9).status == 0
    assert call(capsys, *CONVERT).status == 0
    result = call(capsys, "verify", "net.prototxt", "other.caffemodel", "net.onnx")
    assert result.status == 1
    assert result.out.splitlines()[-1].endswith(": DIFFERENT")
    result = call(capsys, "verify", "net.prototxt", "other.caffemodel", "net.onnx", "--json")
    assert (result.status, result.json["passed"]) == (1, False)
    loose = ("verify", "net.prototxt", "other.caffemodel", "net.onnx", "--tolerance", 1e9)
    assert call(capsys, *loose).status == 0


def test_verify_never_passes_without_comparing(folder: Path, capsys: Capture) -> None:
    """An output in the middle of the net counts as much as one at its end."""
    assert call(capsys, *CONVERT, "--output-blob", "conv1").status == 0
    assert call(capsys, "init", "net.prototxt", "-o", "other.caffemodel", "--seed", 9).status == 0
    result = call(capsys, "verify", "net.prototxt", "other.caffemodel", "net.onnx")
    assert result.status == 1
    assert result.out.splitlines()[-1].endswith(": DIFFERENT")


def test_an_existing_file_is_replaced_only_by_a_whole_one(folder: Path, capsys: Capture) -> None:
    Path("net.onnx").write_text("before")
    assert call(capsys, *CONVERT, "--opset", 99).status == 1
    assert Path("net.onnx").read_text() == "before"
    assert call(capsys, *CONVERT).status == 0
    onnx.checker.check_model("net.onnx")


@pytest.mark.parametrize("target", ["net.caffemodel", "net.prototxt"])
def test_inputs_are_never_overwritten(
    target: str, folder: Path, capsys: Capture, weights: bytes
) -> None:
    result = call(capsys, "convert", "net.prototxt", "net.caffemodel", "-o", target)
    assert result.status == 1
    assert result.err == f"error: {target}: would overwrite the input; give another name.\n"
    assert Path("net.caffemodel").read_bytes() == weights


def test_shared_weights_are_not_missed(folder: Path, capsys: Capture) -> None:
    """A layer that shares the blobs of a stored one needs none of its own."""
    layer = 'layer { name: "%s" type: "InnerProduct" bottom: "data" top: "%s" %s ' \
            "inner_product_param { num_output: 2 } }\n"  # fmt: skip
    share = 'param { name: "w" } param { name: "b" }'
    Path("one.prototxt").write_text(HEAD + layer % ("a", "a", ""))
    Path("two.prototxt").write_text(HEAD + layer % ("a", "a", share) + layer % ("b", "b", share))
    assert call(capsys, "init", "one.prototxt", "-o", "one.caffemodel").status == 0
    result = call(capsys, "convert", "two.prototxt", "one.caffemodel", "-o", "t.onnx", "--verify")
    assert (result.status, result.err) == (0, "")


def test_many_missing_layers_are_counted(folder: Path, capsys: Capture) -> None:
    more = "".join(
        f'layer {{ name: "e{i}" type: "Bias" bottom: "prob" top: "e{i}" }}\n' for i in range(7)
    )
    Path("more.prototxt").write_text(NET + more)
    result = call(capsys, "convert", "more.prototxt", "net.caffemodel", "-o", "m.onnx")
    assert result.status == 0
    assert "no weights for e0, e1, e2, e3, e4 and 2 more;" in result.err
