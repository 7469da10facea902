"""Names, constants, aliases and reshapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from caffe_bridge.errors import ExportError
from caffe_bridge.onnx_export import newest_opset
from caffe_bridge.onnx_export.emitter import GraphEmitter
from tests.onnx_export.nets import SMALL, net


def emitter(opset: int = 17, batch: int = 2, outputs: tuple[str, ...] = (), **dims: Any) -> Any:
    """An emitter of values given by their (partly named) dims, inside the layer ``conv1``."""
    shapes = {
        name: tuple(d if isinstance(d, int) else int(d[2:] or 1) * batch for d in value)
        for name, value in dims.items()
    }
    made = GraphEmitter(opset, shapes, dims, batch, set(outputs))
    made.begin(net(SMALL).layer("conv1"))
    return made


def target_of(made: Any) -> list[int]:
    """The shape that the last Reshape asks for."""
    node = made.nodes[-1]
    assert node.op_type == "Reshape"
    found: list[int] = numpy_helper.to_array(made.initializers[node.input[1]]).tolist()
    return found


def test_nodes_are_named_after_their_layer() -> None:
    made = emitter()
    (a,) = made.op("Relu", ["x"])
    (b,) = made.op("Relu", [a])
    made.op("Neg", [b], ["y"])
    made.finish()
    assert [n.name for n in made.nodes] == ["conv1/Relu", "conv1/Relu_", "conv1"]
    assert made.node_layers == {"conv1/Relu": "conv1", "conv1/Relu_": "conv1", "conv1": "conv1"}


def test_layers_of_one_name_get_numbers() -> None:
    made = emitter()
    layer = net(SMALL).layer("conv1")
    for _ in range(2):
        made.op("Neg", ["x"])
        made.finish()
        made.begin(layer)
    made.op("Neg", ["x"])
    made.finish()
    assert [n.name for n in made.nodes] == ["conv1", "conv1#1", "conv1#2"]


def test_fresh_values_are_distinct() -> None:
    made = emitter()
    first, second = made.op("Split", ["x"], 2)
    (third,) = made.op("Relu", ["x"])
    assert len({first, second, third}) == 3


def test_attributes_of_none_are_left_out() -> None:
    made = emitter()
    made.op("Clip", ["x"], ["y"], axis=None, alpha=2.0)
    assert [a.name for a in made.nodes[0].attribute] == ["alpha"]


def test_equal_constants_are_stored_once() -> None:
    made = emitter()
    first = made.constant(np.array([1, 2], np.int64), "axes")
    assert made.constant(np.array([1, 2], np.int64), "axes") == first == "conv1.axes"
    assert made.constant(np.array([1, 3], np.int64), "axes") == "conv1.axes_"
    assert len(made.initializers) == 2


@pytest.mark.parametrize(
    "other", [np.zeros(2, np.float64), np.zeros((2, 1), np.int64), np.zeros(4, np.int32)]
)
def test_equal_bytes_of_another_kind_are_another_constant(other: np.ndarray) -> None:
    made = emitter()
    first = made.constant(np.zeros(2, np.int64), "zero")
    second = made.constant(other, "zero")
    assert second != first
    assert numpy_helper.to_array(made.initializers[second]).dtype == other.dtype


def test_a_constant_never_takes_the_name_of_a_value() -> None:
    made = emitter(**{"conv1.axes": (2,)})
    assert made.constant(np.array([1], np.int64), "axes") == "conv1.axes_"


def test_blobs_need_a_layer() -> None:
    made = GraphEmitter(17, {}, {}, 1, set())
    with pytest.raises(ExportError, match="outside a layer"):
        made.blob(0)


def test_blobs_are_float_initializers() -> None:
    made = emitter()
    assert made.blob(0) == made.blob(0) == "conv1.blob0"
    want = net(SMALL).layer("conv1").blobs[0].detach().numpy()
    np.testing.assert_array_equal(numpy_helper.to_array(made.initializers["conv1.blob0"]), want)


@pytest.mark.parametrize(
    ("op", "opset", "as_input"),
    [("ReduceSum", 13, True), ("ReduceSum", newest_opset(), True), ("ReduceMean", 13, False),
     ("ReduceMean", 17, False), ("ReduceMean", 18, True), ("ReduceL2", 17, False),
     ("ReduceMax", 18, True)],
)  # fmt: skip
def test_reduce_puts_its_axes_where_the_opset_wants_them(
    op: str, opset: int, as_input: bool
) -> None:
    made = emitter(opset)
    assert made.reduce(op, "x", [1, 2], "y", keepdims=False) == "y"
    (node,) = made.nodes
    attributes = {a.name: a for a in node.attribute}
    assert attributes["keepdims"].i == 0
    if as_input:
        axes = numpy_helper.to_array(made.initializers[node.input[1]])
        assert axes.tolist() == [1, 2]
        assert "axes" not in attributes
    else:
        assert len(node.input) == 1
        assert list(attributes["axes"].ints) == [1, 2]


def test_aliases_are_followed() -> None:
    made = emitter(outputs=("out",))
    made.alias("x", "y")
    made.alias("y", "z")
    assert made.nodes == []
    assert made.resolve("z") == "x"
    made.op("Relu", ["z"], ["r"])
    assert list(made.nodes[0].input) == ["x"]
    made.alias("z", "out")
    assert (made.nodes[1].op_type, list(made.nodes[1].input)) == ("Identity", ["x"])
    assert made.resolve("out") == "out"
    assert made.defined == {"y", "z", "r", "out"}


@pytest.mark.parametrize(
    ("source", "target", "want"),
    [
        (("N", 3, 4), ("N", 12), [0, 12]),
        (("N", 12), ("N*3", 4), [-1, 4]),
        ((2, 3, 4), (2, 12), [2, 12]),
        ((5, "N", 4), ("N", 20), [-1, 20]),
        (("N", 3, "N"), ("N", "N*3"), [0, -1]),
    ],
    ids=["kept", "multiple", "static", "moved", "kept and free"],
)
def test_reshape_of_values(
    source: tuple[Any, ...], target: tuple[Any, ...], want: list[int]
) -> None:
    made = emitter(x=source, y=target)
    shape = [d if isinstance(d, int) else int(d[2:] or 1) * 2 for d in target]
    assert made.reshape("x", shape, "y") == "y"
    assert target_of(made) == want


def test_reshape_refuses_two_free_sizes() -> None:
    made = emitter(x=("N*6",), y=("N*2", "N*3"))
    with pytest.raises(ExportError, match=r"conv1 \(Convolution\).*2 sizes vary.*--static"):
        made.reshape("x", (4, 6), "y")


@pytest.mark.parametrize(
    ("source", "shape", "want"),
    [("free", (2, 9), [0, 9]), ("fixed", (2, 9), [2, 9]), ("helper", (2, 9), [0, 9]),
     ("free", (3, 6), [3, 6]), ("free", (0, 9), [0, 9])],
)  # fmt: skip
def test_reshape_of_helpers(source: str, shape: tuple[int, ...], want: list[int]) -> None:
    """Without a target the first size stays free when it is the batch of a free source."""
    made = emitter(free=("N", 9), fixed=(2, 9))
    made.reshape(source, shape)
    assert target_of(made) == want


def test_reshape_from_a_helper_to_a_value_keeps_its_batch() -> None:
    made = emitter(y=("N", 9))
    made.reshape("helper", (2, 9), "y")
    assert target_of(made) == [0, 9]


def test_value_info_has_the_named_sizes() -> None:
    info = emitter(x=("N", 3)).value_info("x")
    sizes = [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]
    assert sizes == ["N", 3]
