from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import GraphError
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
