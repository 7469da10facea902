from collections.abc import Iterator

import numpy as np
import pytest
import torch

from caffe_bridge.errors import ExportError, GraphError
from caffe_bridge.graph import parse_net
from caffe_bridge.layers.python import allow_python_layers
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from caffe_bridge.pycaffe import Net as PycaffeNet
from tests.helpers import net_text
from tests.layers.losses import normal

MODULE = "tests.layers.user_layers"


@pytest.fixture
def allowed() -> Iterator[None]:
    before = allow_python_layers()
    yield
    allow_python_layers(before)


def layer(name: str, extra: str = "", module: str = MODULE) -> str:
    return f'type: "Python" python_param {{ module: "{module}" layer: "{name}" {extra} }}'


def net(name: str, extra: str = "", bottoms: int = 1, phase: str = "TEST", **more: str) -> Net:
    text = net_text(layer(name, extra, **more), [(2, 3)] * bottoms, 1)
    return Net(parse_net(text, phase))


def test_refused_without_permission() -> None:
    with pytest.raises(GraphError, match=r"l \(Python\).*user_layers\.Doubler, which is not allow"):
        net("Doubler")


@pytest.mark.usefixtures("allowed")
def test_forward_backward_and_param_str() -> None:
    x = torch.from_numpy(normal(2, 3)).requires_grad_()
    y = net("Doubler", 'param_str: "3"')({"in0": x})["out0"]
    torch.testing.assert_close(y, 3 * x)
    (y * y).sum().backward()
    torch.testing.assert_close(x.grad, 18 * x.detach())


@pytest.mark.usefixtures("allowed")
def test_other_batch_size() -> None:
    assert net("Doubler")({"in0": torch.ones(5, 3)})["out0"].shape == (5, 3)


@pytest.mark.usefixtures("allowed")
def test_learnable_blobs() -> None:
    model = net("Offset")
    (blob,) = model.learnable
    assert blob.value.tolist() == [0.5] * 3
    with torch.no_grad():
        blob.value.copy_(torch.tensor([1.0, 2.0, 3.0]))
    y = model({"in0": torch.zeros(2, 3)})["out0"]
    assert y.tolist() == [[1.0, 2.0, 3.0]] * 2
    y.sum().backward()
    assert blob.value.grad is not None
    assert blob.value.grad.tolist() == [2.0] * 3


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(("phase", "first"), [("TRAIN", 1.0), ("TEST", 11.0)])
def test_data_layer(phase: str, first: float) -> None:
    model = net("Source", bottoms=0, phase=phase)
    assert [float(model()["out0"][0, 0]) for _ in range(2)] == [first, first + 1]


@pytest.mark.usefixtures("allowed")
def test_pycaffe_net() -> None:
    text = f"force_backward: true {net_text(layer('Doubler'), [(2, 3)], 1)}"
    model = PycaffeNet(parse_net(text, "TEST"))
    x = normal(2, 3)
    np.testing.assert_allclose(model.forward(in0=x)["out0"], 2 * x)
    np.testing.assert_allclose(model.backward(out0=np.ones((2, 3)))["in0"], np.full((2, 3), 2.0))


@pytest.mark.usefixtures("allowed")
def test_onnx_is_refused() -> None:
    with pytest.raises(ExportError, match=r"runs the Python class .*Doubler, which has no ONNX"):
        export(net("Doubler"))


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("Missing", MODULE, r"cannot make tests\.layers\.user_layers\.Missing"),
        ("Doubler", "no_such_module", "cannot make no_such_module.Doubler.*PYTHONPATH"),
    ],
)
def test_class_that_cannot_be_made(name: str, module: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        net(name, module=module)


@pytest.mark.usefixtures("allowed")
def test_failing_class_names_the_method() -> None:
    model = net("Broken")
    with pytest.raises(GraphError, match=r"Broken\.forward failed with ValueError: no luck"):
        model({"in0": torch.ones(2, 3)})


@pytest.mark.usefixtures("allowed")
def test_in_place_the_top_is_the_bottom() -> None:
    made = Net(parse_net(net_text(layer("InPlace"), [(2, 3)], 1, in_place=True)))
    x = torch.full((2, 3), 2.0, requires_grad=True)
    (top,) = made({"in0": x}).values()
    top.sum().backward()
    assert top.tolist() == [[6.0] * 3] * 2
    assert x.grad is not None
    assert x.grad.tolist() == [[3.0] * 3] * 2
    assert x.tolist() == [[2.0] * 3] * 2
