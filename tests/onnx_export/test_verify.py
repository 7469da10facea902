"""Comparing a model with its net: nothing wrong passes, and the first wrong blob is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from caffe_bridge.errors import BackendError, VerifyError
from caffe_bridge.onnx_export import export, save
from caffe_bridge.onnx_export.verify import (
    Difference,
    Verification,
    batches_of,
    difference,
    output_names,
    random_feed,
    session,
    verify,
)
from tests.onnx_export.nets import SMALL, conv, entry, fc, layer, net

INF, NAN = float("inf"), float("nan")


def tamper(model: onnx.ModelProto, name: str, change: float) -> onnx.ModelProto:
    """The model with the first number of one initializer moved."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor).copy()
            array.flat[0] += np.float32(change)
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    return copy


def test_all_blobs_of_all_batches() -> None:
    done = verify(net(SMALL))
    assert done.batches == (1, 3)
    assert [(d.blob, d.batch) for d in done.differences] == [
        (blob, batch) for batch in (1, 3) for blob in ("conv1@conv1", "conv1", "ip", "prob")
    ]
    assert {d.blob for d in done.differences if d.output} == {"prob"}
    assert done.differences[3].shape == (1, 3)
    assert done.passed
    assert done.require("net") is done


def test_models_are_compared_by_their_outputs(tmp_path: Path) -> None:
    made = net(SMALL)
    model = export(made, outputs=["ip"])
    path = save(model, tmp_path / "m.onnx")
    for given in (model, path, str(path)):
        done = verify(made, given)
        assert [(d.blob, d.output) for d in done.differences] == [("ip", True)] * 2
        assert done.passed
    assert output_names(path) == ["ip"]
    assert len(verify(made, model, every_blob=True).differences) == 6


@pytest.mark.parametrize(
    ("name", "blob"), [("conv1.blob1", "conv1@conv1"), ("ip.blob0", "ip"), ("ip.blob1", "ip")]
)
def test_the_first_wrong_blob_is_named(name: str, blob: str) -> None:
    made = net(SMALL)
    model = tamper(export(made), name, 0.5)
    done = verify(made, model, every_blob=True)
    assert not done.passed
    words = rf"m\.onnx: .*the first blob to differ is '{blob}' at batch 1 by"
    with pytest.raises(VerifyError, match=words):
        done.require("m.onnx")


def test_a_wrong_output_in_the_middle_of_the_net_fails() -> None:
    made = net(SMALL)
    model = tamper(export(made, outputs=["conv1"]), "conv1.blob0", 0.5)
    assert not verify(made, model).passed


def test_tolerance() -> None:
    made = net(SMALL)
    model = tamper(export(made), "conv1.blob1", 1e-3)
    assert not verify(made, model, tolerance=1e-7).passed
    assert verify(made, model, tolerance=1.0).passed


def test_nothing_compared_is_no_pass() -> None:
    assert not Verification((), (), 1e-4).passed
    inner = Difference("a", 1, (1,), 0.0, 0.0, output=False)
    assert not Verification((inner,), (1,), 1e-4).passed
    with pytest.raises(VerifyError, match=r"differ by 0 relative.*is \?"):
        Verification((), (), 1e-4).require("m")


@pytest.mark.parametrize(
    ("got", "want", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], (0.0, 0.0)),
        ([1.0, 2.5], [1.0, 2.0], (0.5, 0.25)),
        ([0.0], [1e-6], (1e-6, 1e-3)),
        ([INF, -INF], [INF, -INF], (0.0, 0.0)),
        ([NAN, 1.0], [NAN, 1.0], (0.0, 0.0)),
        ([INF], [-INF], (INF, INF)),
        ([NAN], [1.0], (INF, INF)),
        ([1.0], [NAN], (INF, INF)),
        ([INF], [1.0], (INF, INF)),
        ([1.0], [INF], (INF, INF)),
        ([INF, 3.0], [INF, 2.0], (1.0, 0.5)),
        ([1.0, 2.0], [1.0], (INF, INF)),
        ([], [], (0.0, 0.0)),
    ],
)
def test_difference(got: list[float], want: list[float], expected: tuple[float, float]) -> None:
    found = difference(np.array(got, np.float32), np.array(want, np.float32))
    assert found == pytest.approx(expected, rel=1e-6)


def test_difference_of_scalars() -> None:
    assert difference(np.float32(2.0), np.asarray(2.0, np.float32)) == (0.0, 0.0)


def test_random_feed_is_seeded_and_knows_labels() -> None:
    text = (
        entry("data", 2, 3) + entry("label", 2) + fc("ip", "data", "ip")
        + layer("SoftmaxWithLoss", "loss", "ip label", "loss")
        + layer("Accuracy", "accuracy", "ip label", "accuracy")
    )  # fmt: skip
    made = net(text)
    one, two, other = (random_feed(made, 50, seed) for seed in (0, 0, 1))
    assert torch.equal(one["data"], two["data"])
    assert not torch.equal(one["data"], other["data"])
    assert one["data"].shape == (50, 3)
    assert set(one["label"].tolist()) == {0.0, 1.0}
    assert random_feed(made)["data"].shape == (2, 3)
    assert float(random_feed(made, 50, scale=0.0)["data"].abs().max()) == 0.0
    assert verify(made).require("losses").passed


def test_given_feeds() -> None:
    made = net(SMALL)
    done = verify(made, feed={"data": torch.ones(5, 3, 6, 6)})
    assert done.batches == (5,)
    assert done.passed


def test_fixed_models_choose_the_batch() -> None:
    model = export(net(SMALL), dynamic_batch=False)
    assert verify(net(SMALL), model).batches == (2,)
    other = net(SMALL.replace("dim: 2", "dim: 7"))
    assert verify(other, model, batches=(1,)).batches == (2,)


def test_batches_that_no_net_allows() -> None:
    text = entry("data", 2, 6) + layer(
        "Reshape", "r", "data", "r", "reshape_param { shape { dim: 2 dim: 6 } }"
    )
    assert batches_of(net(text), (1, 2, 3)) == (2,)
    assert batches_of(net(SMALL), (1, 2, 3)) == (1, 2, 3)
    assert verify(net(SMALL), batches=()).batches == (2,)


def test_recurrent_state_starts_anew_for_each_batch() -> None:
    text = entry("x", 3, 2, 4) + entry("cont", 3, 2) + layer(
        "LSTM", "lstm", "x cont", "out",
        'recurrent_param { num_output: 5 weight_filler { type: "gaussian" std: 1 } }',
    )  # fmt: skip
    made = net(text)
    made.run(random_feed(made, seed=3))
    assert verify(made).require("lstm").passed


def relu(into: str, out: str, shape: list[int | str], op: str = "Relu") -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in (into, out)]
    graph = helper.make_graph([helper.make_node(op, [into], [out])], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (relu("data", "x", ["N", 3, 6, 6]), "its output 'x' is none of the outputs"),
        (relu("x", "conv1", ["N", 3, 6, 6]), r"its input 'x' is none of the inputs of .* \(data\)"),
        (
            relu("data", "conv1", ["N", 3, 9, 6]),
            r"its input 'data' has shape \('N', 3, 9, 6\), the net's",
        ),
        (
            relu("data", "conv1", ["N", 3]),
            r"its input 'data' has shape \('N', 3\), the net's has \(1",
        ),
    ],
    ids=["output", "input", "size", "rank"],
)
def test_models_of_other_nets(model: onnx.ModelProto, words: str) -> None:
    with pytest.raises(VerifyError, match=f"the exported model: {words}"):
        verify(net(SMALL), model)


def test_an_output_of_another_shape_differs() -> None:
    done = verify(net(SMALL), relu("data", "conv1", ["N", 3, 6, 6]))
    assert done.worst == INF
    assert not done.passed


def test_models_that_onnxruntime_cannot_load(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"exported model: onnxruntime .* cannot load it"):
        session(relu("a", "b", [1], op="NoSuchOp"))
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"\xff" * 50)
    with pytest.raises(BackendError, match=r"noise\.onnx: onnxruntime .* cannot load it"):
        output_names(path)


def test_models_that_onnxruntime_cannot_run() -> None:
    made = net(entry("data", 2, 6) + layer("ReLU", "r", "data", "r"))
    model = relu("data", "r", ["N", 6])
    shape = numpy_helper.from_array(np.array([7, 7], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node[0].CopyFrom(helper.make_node("Reshape", ["data", "shape"], ["r"]))
    with pytest.raises(BackendError, match="the exported model: onnxruntime cannot run it"):
        verify(made, model)


def test_convolution_of_every_opset_agrees() -> None:
    text = entry("data", 1, 3, 7, 5) + conv("c", "data", "c", 4, "stride: 2 pad: 1 dilation: 2")
    for opset in (13, 17, 18, 21):
        assert verify(net(text), opset=opset).passed
