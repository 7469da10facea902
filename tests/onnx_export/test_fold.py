"""Constant factors and summands move into the weights before them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from caffe_bridge.onnx_export.fold import Constants, fold
from caffe_bridge.onnx_export.verify import compare_models, verify
from tests.onnx_export.nets import conv, entry, fc, layer, net

NORM = layer("BatchNorm", "bn", "x", "x")
SCALE = layer("Scale", "scale", "x", "x", "scale_param { bias_term: true }")
DECONV = (
    "convolution_param { num_output: 6 kernel_size: 4 stride: 2 group: 2 "
    'weight_filler { type: "gaussian" std: 0.2 } }'
)


def filled(text: str) -> Net:
    """A net with random blobs; what BatchNorm divides by stays positive."""
    made = net(text)
    generator = torch.Generator().manual_seed(3)
    for built in made.built.layers:
        for blob in built.blobs:
            values = torch.rand(blob.shape, generator=generator) + 0.2
            blob.data.copy_(values if built.spec.type in ("BatchNorm", "Scale") else values - 0.7)
    return made


def ops(made: Net, target: str = "ort-cpu") -> list[str]:
    return [node.op_type for node in export(made, target=target).graph.node]


FOLDED = {
    "convolution": (entry("data", 2, 3, 6, 5) + conv("c", "data", "x") + NORM + SCALE, ["Conv"]),
    "convolution without bias": (
        entry("data", 2, 3, 6, 5) + conv("c", "data", "x", 4, "bias_term: false") + NORM, ["Conv"],
    ),
    "deconvolution": (
        entry("data", 2, 4, 3, 5) + layer("Deconvolution", "d", "data", "x", DECONV) + SCALE,
        None,
    ),
    "inner product": (
        entry("data", 2, 3, 4) + fc("ip", "data", "x") + SCALE, ["Flatten", "Gemm"],
    ),
    "one number": (
        entry("data", 2, 3, 6, 5) + conv("c", "data", "x")
        + layer("Power", "p", "x", "x", "power_param { scale: 3 shift: -1 }"), ["Conv"],
    ),
    "normalisation and scale": (
        entry("data", 2, 3, 6, 5) + layer("ReLU", "r", "data", "x") + NORM + SCALE,
        ["Relu", "BatchNormalization"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_folded_nets_agree(case: str) -> None:
    text, want = FOLDED[case]
    made = filled(text)
    model = export(made, target="ort-cpu")
    if want is not None:
        assert [node.op_type for node in model.graph.node] == want
    assert len(model.graph.node) < len(export(made).graph.node) or want is None
    assert verify(made, model, (1, 3), every_blob=True).require(case).worst <= 1e-5
    assert compare_models(made, export(made), model).worst <= 1e-5
    assert model.graph.output[0].name == "x"


def test_grouped_transpose_takes_the_factors_of_its_outputs() -> None:
    made = filled(FOLDED["deconvolution"][0])
    model = export(made, target="ort-cpu", forms={"d": "transpose"})
    assert [node.op_type for node in model.graph.node] == ["ConvTranspose"]
    assert verify(made, model, (1, 3)).worst <= 1e-5


def test_portable_folds_nothing() -> None:
    made = filled(FOLDED["convolution"][0])
    assert ops(made, "portable") == ["Conv", "BatchNormalization", "Mul", "Add"]


def test_values_that_others_read_stay() -> None:
    text = entry("data", 2, 3, 6, 5) + conv("c", "data", "x")
    text += layer("Scale", "s", "x", "y") + layer("Eltwise", "e", "x y", "z")
    assert ops(filled(text)) == ["Conv", "Mul", "Add"]
    made = filled(
        entry("data", 2, 3, 6, 5) + conv("c", "data", "x") + layer("Scale", "s", "x", "y")
    )
    both = export(made, target="ort-cpu", outputs=["x", "y"])
    assert [node.op_type for node in both.graph.node] == ["Conv", "Mul"]
    assert [node.op_type for node in export(made, target="ort-cpu").graph.node] == ["Conv"]


def test_shared_weights_are_not_changed_for_others() -> None:
    share = 'param { name: "w" } param { name: "b" }'
    text = entry("data", 2, 3, 6, 5)
    for name in ("one", "two"):
        text += conv(name, "data", name).replace("convolution_param", f"{share} convolution_param")
    made = filled(text + layer("Scale", "s", "two", "two"))
    model = export(made, target="ort-cpu")
    assert verify(made, model, (1, 3)).worst <= 1e-5
    assert [node.op_type for node in model.graph.node] == ["Conv", "Conv"]
    assert len(model.graph.initializer) == 3 + 1


@pytest.mark.parametrize(
    "operand",
    [np.ones((1, 4, 5, 1)), np.ones((4,)), np.ones((1, 1, 1, 5)), np.ones((1, 1, 4, 1, 1))],
)
def test_other_broadcasts_stay(operand: np.ndarray) -> None:
    constants: Constants = {
        "w": numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w"),
        "k": numpy_helper.from_array(operand.astype(np.float32), "k"),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Mul", ["y", "k"], ["z"]),
    ]  # fmt: skip
    assert [node.op_type for node in fold(nodes, constants, {"z"})] == ["Conv", "Mul"]


def test_a_variance_that_has_no_root_stays() -> None:
    values = {"w": np.ones((2, 2, 1, 1)), "s": np.ones(2), "b": np.zeros(2), "m": np.zeros(2),
              "v": -np.ones(2)}  # fmt: skip
    constants = {k: numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("BatchNormalization", ["y", "s", "b", "m", "v"], ["z"], epsilon=1e-5),
    ]
    assert len(fold(nodes, constants, {"z"})) == 2


@pytest.mark.parametrize(
    ("rank", "left"), [(0, 1), (4, 1), (3, 2)], ids=["unknown", "pictures", "sequences"]
)
def test_a_column_is_of_channels_where_the_rank_says_so(rank: int, left: int) -> None:
    values = {"s": np.ones(2), "b": np.zeros(2), "m": np.zeros(2), "v": np.ones(2),
              "k": np.full((2, 1, 1), 3.0)}  # fmt: skip
    constants = {k: numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()}
    nodes = [
        helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-5),
        helper.make_node("Mul", ["y", "k"], ["z"]),
    ]
    assert len(fold(nodes, constants, {"z"}, {"y": rank} if rank else {})) == left


def test_new_weights_are_single_precision() -> None:
    made = export(filled(FOLDED["convolution"][0]), target="ort-cpu")
    assert {value.data_type for value in made.graph.initializer} == {TensorProto.FLOAT}
    assert sorted(value.name for value in made.graph.initializer) == [
        "c.blob0.folded", "c.blob1.folded",
    ]  # fmt: skip
