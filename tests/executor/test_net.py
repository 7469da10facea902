"""pycaffe's Net: constructor forms, live blobs, files, sharing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import BlobError, BridgeError, SchemaError, ShapeError, WeightError
from tests.executor.nets import CHAIN, data, fill, ip, layer, net
from tests.shared import GOLDEN

CLOSE = 1e-5
#: Bound of a golden layer, relative to the largest value.
GOLDEN_CLOSE = 1e-4


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A prototxt with phases, levels and stages, and weights for it."""
    rules = {
        "train": "phase: TRAIN",
        "test": "phase: TEST",
        "deep": "min_level: 1",
        "s": "stage: 'go'",
    }
    text = CHAIN + "".join(
        layer("TanH", n, "a", n, f"include {{ {rule} }}") for n, rule in rules.items()
    )
    path = tmp_path / "net.prototxt"
    path.write_text("name: 'forms'\n" + text)
    made = net(text, seed=9)
    made.save(tmp_path / "w.caffemodel")
    return path, tmp_path / "w.caffemodel"


def extras(made: caffe.Net) -> list[str]:
    return [n for n in made._layer_names if n in ("train", "test", "deep", "s")]


def test_constructor_forms(files: tuple[Path, Path]) -> None:
    path, weights = files
    assert extras(caffe.Net(str(path), caffe.TRAIN)) == ["train"]
    assert extras(caffe.Net(path, phase=caffe.TEST)) == ["test"]
    made = caffe.Net(str(path), caffe.TEST, level=1, stages=["go"], weights=str(weights))
    assert extras(made) == ["test", "deep", "s"]
    assert made.name == "forms"
    old = caffe.Net(str(path), str(weights), caffe.TEST)
    want = net(CHAIN, seed=9).params["a"][0].data
    for loaded in (made, old):
        np.testing.assert_array_equal(loaded.params["a"][0].data, want)


def test_constructor_errors(files: tuple[Path, Path]) -> None:
    path, _ = files
    with pytest.raises(BridgeError, match="needs a phase"):
        caffe.Net(str(path))
    with pytest.raises(BridgeError, match="needs a phase"):
        caffe.Net(str(path), 3)
    with pytest.raises(SchemaError, match="gone"):
        caffe.Net("gone.prototxt", caffe.TEST)
    with pytest.raises(SchemaError, match="gone"):
        caffe.Net(str(path), "gone.caffemodel", caffe.TEST)


def test_what_a_net_shows() -> None:
    made = net("name: 'n'\n" + CHAIN)
    assert list(made.blobs) == ["x", "t", "a", "loss"]
    assert list(made.params) == ["a"]
    assert [p.data.shape for p in made.params["a"]] == [(4, 3), (4,)]
    assert made.inputs == ["x", "t"]
    assert [v.type for v in made.layers][2:] == ["InnerProduct", "ReLU", "EuclideanLoss"]
    assert made._layer_names == ["x", "t", "a", "r", "loss"]
    assert made.layer_dict["a"].blobs[0] is made.params["a"][0]
    assert made.bottom_names["loss"] == ["a", "t"]
    assert made.top_names["r"] == ["a"]


def test_outputs_are_alphabetical() -> None:
    text = data("x", 1) + layer("TanH", "1", "x", "zebra") + layer("TanH", "2", "x", "ant")
    made = net(text)
    assert made.outputs == ["ant", "zebra"]
    assert list(made.forward()) == ["ant", "zebra"]


def test_edited_inputs_and_weights_count() -> None:
    made = net(data("x", 2, 3) + ip("a", "x", 2))
    made.blobs["x"].data[...] = np.arange(6).reshape(2, 3)
    made.params["a"][0].data[...] = [[1, 0, 0], [0, 1, 1]]
    made.params["a"][1].data[...] = [10, 20]
    np.testing.assert_array_equal(made.forward()["a"], [[10, 23], [13, 29]])
    made.params["a"][0].data[0] *= 2
    made.blobs["x"].data[0, 0] = 1
    np.testing.assert_array_equal(made.forward()["a"], [[12, 23], [16, 29]])


def test_forward_takes_and_returns_blobs() -> None:
    made = net(data("x", 2) + layer("Power", "a", "x", "a", "power_param { scale: 2 }")
               + layer("Power", "b", "a", "b", "power_param { shift: 1 }"))  # fmt: skip
    out = made.forward(blobs=["a"], x=[1, 2])
    assert {k: v.tolist() for k, v in out.items()} == {"b": [3, 5], "a": [2, 4]}
    assert made.forward(x=np.array([5, 6]))["b"].tolist() == [11, 13]
    assert made.evaluate() == 0.0
    assert made.fetch("b").tolist() == [11, 13]


def test_forward_errors() -> None:
    made = net(CHAIN)
    with pytest.raises(BlobError, match=r"the inputs are \['x', 't'\], given are \['y'\]"):
        made.forward(y=[1])
    with pytest.raises(BlobError, match=r"blob 'x' has shape \(2, 3\), the given array \(4,\)"):
        made.forward(x=np.zeros(4), t=np.zeros((2, 1)))
    with pytest.raises(BlobError, match="no layer 'nope'"):
        made.forward(start="nope")
    with pytest.raises(BlobError, match="no layer 'nope'"):
        made.backward(end="nope")


def test_backward_takes_and_returns_diffs() -> None:
    text = "force_backward: true\n" + data("x", 2, 3) + ip("a", "x", 2)
    made = fill(net(text))
    made.forward()
    top = np.array([[1.0, 0.0], [0.5, -1.0]])
    out = made.backward(diffs=["a"], a=top)
    assert list(out) == ["x", "a"]
    np.testing.assert_allclose(out["x"], top @ made.params["a"][0].data, rtol=CLOSE)
    np.testing.assert_allclose(
        made.params["a"][0].diff, top.T @ made.blobs["x"].data, rtol=CLOSE, atol=CLOSE
    )
    np.testing.assert_allclose(made.params["a"][1].diff, top.sum(0), rtol=CLOSE)
    assert list(made.backward(end="a")) == ["x"]


def test_reshape() -> None:
    made = net(data("x", 2, 3) + ip("a", "x", 4) + layer("TanH", "b", "a", "b"))
    made.blobs["x"].reshape(5, 3)
    made.reshape()
    assert {k: b.shape for k, b in made.blobs.items()} == {"x": (5, 3), "a": (5, 4), "b": (5, 4)}
    made.blobs["x"].reshape(1, 3)
    assert made.forward()["b"].shape == (1, 4)


@pytest.mark.parametrize("call", ["reshape", "forward"])
@pytest.mark.parametrize(
    "text",
    [
        data("x", 2, 3) + ip("a", "x", 4),
        data("x", 2, 3, 5, 5)
        + layer("Convolution", "a", "x", "a", "convolution_param { num_output: 2 kernel_size: 3 }"),
    ],
    ids=["InnerProduct", "Convolution"],
)
def test_reshape_to_what_the_weights_do_not_fit(text: str, call: str) -> None:
    made = net(text)
    made.blobs["x"].reshape(1, 4, *made.blobs["x"].shape[2:])
    for _ in range(2):
        with pytest.raises(ShapeError, match=r"^a \(.*has learnable blobs .* would need"):
            getattr(made, call)()


@pytest.mark.parametrize("name", ["w.caffemodel", "w.caffemodel.h5"])
def test_save_and_copy_from(tmp_path: Path, name: str) -> None:
    first, second = net(CHAIN, seed=1), net(CHAIN, seed=2)
    assert not np.array_equal(first.params["a"][0].data, second.params["a"][0].data)
    first.save(tmp_path / name)
    view = second.params["a"][0].data
    second.copy_from(str(tmp_path / name))
    np.testing.assert_array_equal(view, first.params["a"][0].data)
    other = net(CHAIN.replace("dim: 2 dim: 4", "dim: 2 dim: 5").replace("output: 4", "output: 5"))
    with pytest.raises(WeightError, match="blob 0"):
        other.copy_from(tmp_path / name)


def test_share_with() -> None:
    first, second = net(CHAIN, seed=1), net(CHAIN, seed=2)
    second.share_with(first)
    first.params["a"][0].data[...] = 3
    assert (second.params["a"][0].data == 3).all()
    fill(second)
    second.forward()
    want = np.maximum(3 * second.blobs["x"].data.sum(1, keepdims=True), 0)
    bias = second.params["a"][1].data
    np.testing.assert_allclose(second.blobs["a"].data, want + bias, rtol=CLOSE, atol=CLOSE)


def test_shared_parameters_are_one_blob() -> None:
    param = "param { name: 'w' } param { name: 'b' }"
    made = net(data("x", 1, 2) + ip("a", "x", 2, param) + ip("c", "a", 2, param))
    made.params["a"][0].data[...] = [[0, 1], [1, 0]]
    assert made.params["c"][0].data.tolist() == [[0, 1], [1, 0]]
    assert len(made.learnable) == 2
    assert made.forward(x=[[3, 4]])["c"].tolist() == [[3, 4]]


CASES = [
    "BatchNorm_01", "BatchNorm_03", "ConvolutionMulti_00", "Convolution_00", "InnerProduct_04",
    "SoftmaxWithLossFlat_00", "Deconvolution_04",
]  # fmt: skip
PRESENT = [name for name in CASES if (GOLDEN / "layers" / name / "io.npz").is_file()]


@pytest.mark.golden
@pytest.mark.skipif(not PRESENT, reason="needs numbers computed by a real Caffe")
@pytest.mark.parametrize("name", PRESENT or ["none"])
def test_layers_of_caffe(name: str) -> None:
    folder = GOLDEN / "layers" / name
    meta, io = json.loads((folder / "meta.json").read_text()), np.load(folder / "io.npz")
    files = [folder / "net.prototxt", *([folder / "weights.caffemodel"] * meta["has_params"])]
    made = caffe.Net(*files, getattr(caffe, meta["phase"]))
    given = {k.partition("/")[2]: io[k] for k in io.files if k.startswith("in/")}
    for blob, values in given.items():
        made.blobs[blob].reshape(*values.shape)
    made.forward(**given)
    made.backward(**{k[8:]: io[k] for k in io.files if k.startswith("topdiff/")})
    checked = 0
    for key in io.files:
        kind, _, rest = key.partition("/")
        layer_name, _, index = rest.rpartition("/")
        if kind not in ("out", "indiff", "paramdiff", "param_after"):
            continue
        blob = made.params[layer_name][int(index)] if kind[:5] == "param" else made.blobs[rest]
        got = blob.diff if kind.endswith("diff") else blob.data
        bound = GOLDEN_CLOSE * max(1e-3, np.abs(io[key]).max(initial=0))
        np.testing.assert_allclose(got.reshape(io[key].shape), io[key], rtol=0, atol=bound)
        checked += 1
    assert checked >= 2
