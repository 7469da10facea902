from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import GraphError, ShapeError
from caffe_bridge.net import Net as WholeNet
from caffe_bridge.pycaffe.place import Place, register_place
from tests.pycaffe.nets import write

MODULE = "tests.pycaffe.python_layers"
DATA = """force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape {dim: 10 dim: 9 dim: 8} } }
"""


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    before = caffe.allow_python_layers()
    yield
    caffe.allow_python_layers(before)


def layer(name: str, kind: str, bottom: str = "", extra: str = "") -> str:
    bottoms = f'bottom: "{bottom}"' if bottom else ""
    return (
        f'layer {{ name: "{name}" type: "Python" {bottoms} top: "{name}" '
        f'python_param {{ module: "{MODULE}" layer: "{kind}" {extra} }} }}\n'
    )


def three() -> caffe.Net:
    text = DATA + layer("one", "Simple", "data") + layer("two", "Simple", "one")
    return caffe.Net(write("p.prototxt", text + layer("three", "Simple", "two")), caffe.TRAIN)


def test_forward() -> None:
    net = three()
    net.blobs["data"].data[...] = 8
    np.testing.assert_array_equal(net.forward()["three"], np.full((10, 9, 8), 8000))


def test_backward() -> None:
    net = three()
    net.forward()
    net.blobs["three"].diff[...] = 7
    net.backward()
    np.testing.assert_array_equal(net.blobs["data"].diff, np.full((10, 9, 8), 7000))


def test_reshape() -> None:
    net = three()
    net.blobs["data"].reshape(4, 5)
    net.blobs["data"].data[...] = 1
    net.forward()
    assert all(net.blobs[name].shape == (4, 5) for name in ("one", "two", "three"))


def test_an_exception_names_layer_and_cause() -> None:
    text = DATA + layer("bad", "Failing", "data")
    with pytest.raises(GraphError, match=r"bad \(Python\).*Failing\.setup.*RuntimeError: as meant"):
        caffe.Net(write("p.prototxt", text), caffe.TRAIN)


def test_parameters() -> None:
    path = write("p.prototxt", "force_backward: true\n" + layer("layer", "Parameter"))
    net = caffe.Net(path, caffe.TRAIN)
    net.forward()
    net.backward()
    shown = net.layers[list(net._layer_names).index("layer")]
    assert (shown.blobs[0].data[0], shown.blobs[0].diff[0]) == (0, 1)
    shown.blobs[0].data[0] += shown.blobs[0].diff[0]
    net.save("w.caffemodel")
    again = caffe.Net(path, caffe.TEST, weights="w.caffemodel")
    assert again.params["layer"][0].data[0] == 1
    np.testing.assert_array_equal(again.forward()["layer"], np.ones(10))


@pytest.mark.parametrize("device", [False, True])
def test_what_the_class_writes_into_its_blobs_stays(device: bool) -> None:
    if device:
        register_place(0, Place(torch.device("cpu"), separate=True))
        caffe.set_mode_gpu()
    path = write("p.prototxt", DATA + layer("c", "Counter", "data"))
    net = caffe.Net(path, caffe.TRAIN)
    net.blobs["data"].data[...] = 1
    calls, weight = net.params["c"]
    held = calls.data
    assert calls.data.tolist() == [1, 0, 0]
    for number in (1, 2):
        np.testing.assert_array_equal(net.forward()["c"], np.full((10, 9, 8), 2))
        net.blobs["c"].diff[...] = 1
        net.backward()
        assert calls.diff.tolist() == [4, 5, 6]
        assert weight.diff.tolist() == [720 * number]
        assert calls.data.tolist() == held.tolist() == [1 + number, number, number]
    net.reshape()
    assert calls.data.tolist() == [4, 2, 2]
    net.save("w.caffemodel")
    weight.data[...] = 3
    assert net.forward()["c"].max() == 3
    again = caffe.Net(path, caffe.TEST, weights="w.caffemodel")
    assert again.params["c"][0].data.tolist() == [4, 2, 2]
    caffe.set_mode_cpu()
    register_place(0, None)


def test_what_the_class_writes_stays_in_the_whole_graph() -> None:
    net = WholeNet(write("p.prototxt", DATA + layer("c", "Counter", "data")), "TRAIN")
    calls, weight = (blob.value for blob in net.learnable)
    for number in (1, 2):
        (net({"data": torch.ones(10, 9, 8)})["c"].sum() / 720).backward()
        assert calls.tolist() == [1 + number, number, number]
        assert calls.grad is not None and weight.grad is not None
        assert calls.grad.tolist() == [4, 5, 6]
        assert weight.grad.tolist() == pytest.approx([number])


def test_blobs_made_after_setup_are_refused() -> None:
    net = caffe.Net(write("p.prototxt", layer("g", "Growing")), caffe.TEST)
    net.forward()
    with pytest.raises(ShapeError, match=r"g \(Python\).*from \[\(1,\)\] to .*make them in setup"):
        net.forward()


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_phase(phase: int) -> None:
    net = caffe.Net(write("p.prototxt", layer("phase", "Phase")), phase)
    assert float(net.forward()["phase"]) == phase


def test_param_str() -> None:
    text = DATA + layer("s", "ParamStr", "data", 'param_str: "0.5"')
    net = caffe.Net(write("p.prototxt", text), caffe.TRAIN)
    net.blobs["data"].data[...] = 2
    np.testing.assert_array_equal(net.forward()["s"], np.full((10, 9, 8), 2.5))
    net.blobs["s"].diff[...] = 4
    net.backward()
    np.testing.assert_array_equal(net.blobs["data"].diff, np.full((10, 9, 8), 2.0))


def test_two_instances_have_their_own_param_str() -> None:
    text = DATA + layer("a", "ParamStr", "data", 'param_str: "1.0"')
    net = caffe.Net(
        write("p.prototxt", text + layer("b", "ParamStr", "a", 'param_str: "3.0"')), caffe.TEST
    )
    net.blobs["data"].data[...] = 0
    assert set(np.unique(net.forward()["b"])) == {4.0}


def test_without_permission_nothing_runs() -> None:
    caffe.allow_python_layers(False)
    with pytest.raises(GraphError, match="not allowed"):
        three()


def test_constructors_with_and_without_the_parameter() -> None:
    text = DATA + layer("one", "Constructed", "data") + layer("two", "Bare", "one")
    net = caffe.Net(write("p.prototxt", text), caffe.TEST)
    net.blobs["data"].data[...] = 2
    assert (net.forward()["two"] == 60).all()
    assert net.built.layers[1].user.name == "one"
