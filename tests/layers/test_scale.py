import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text
from tests.layers.test_bias import CASES


def scale(text: str, bias: bool) -> str:
    return f'type: "Scale" scale_param {{ {text} bias_term: {str(bias).lower()} }}'


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("text", "shape", "broadcast"), CASES)
def test_blob(text: str, shape: tuple[int, ...], broadcast: tuple[int, ...], bias: bool) -> None:
    def reference(x: np.ndarray, a: np.ndarray, *b: np.ndarray) -> np.ndarray:
        return x * a.reshape(broadcast) + (b[0].reshape(broadcast) if b else 0)

    net = check_layer(
        scale(text, bias),
        [(2, 3, 4, 5)],
        [(2, 3, 4, 5)],
        reference,
        in_place=True,
        onnx=text != "axis: 0",
    )
    assert [(tuple(b.value.shape), b.role) for b in net.learnable] == [
        (shape, role) for role in ("weight", "bias")[: 1 + bias]
    ]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("text", "shape", "broadcast"), [*CASES, ("axis: 1", (), ())])
def test_bottom(text: str, shape: tuple[int, ...], broadcast: tuple[int, ...], bias: bool) -> None:
    def reference(x: np.ndarray, a: np.ndarray, *b: np.ndarray) -> np.ndarray:
        return x * a.reshape(broadcast) + (b[0].reshape(broadcast) if b else 0)

    net = check_layer(
        scale(text, bias), [(2, 3, 4, 5), shape], [(2, 3, 4, 5)], reference,
        onnx=not (bias and text == "axis: 0"),
    )  # fmt: skip
    assert [b.role for b in net.learnable] == ["bias"] * bias


def test_fillers() -> None:
    def values(text: str) -> list[list[float]]:
        net = Net(parse_net(net_text(scale(text, bias=True), [(1, 2)], 1)))
        return [blob.tolist() for blob in net.layer("l").blobs]

    assert values("") == [[1, 1], [0, 0]]
    assert values("filler { value: 3 } bias_filler { value: 4 }") == [[3, 3], [4, 4]]
    assert values("filler { }") == [[0, 0], [0, 0]]


def test_min_value_raises_the_blob() -> None:
    check_layer(
        scale("min_value: 0.5", bias=False),
        [(2, 3)],
        [(2, 3)],
        lambda x, a: x * a,
        blobs=[np.array([0.75, 1.0, 2.0])],
    )
    net = Net(parse_net(net_text(scale("min_value: 0.5", bias=True), [(1, 3)], 1)))
    net.layer("l").blobs[0].data.copy_(torch.tensor([-1.0, 0.25, 2.0]))
    assert net.layer("l")(torch.ones(1, 3)).tolist() == [[0.5, 0.5, 2.0]]
    assert net.layer("l").blobs[0].tolist() == [0.5, 0.5, 2.0]


def test_errors() -> None:
    with pytest.raises(ShapeError, match=r"l \(Scale\).*axis 2 is outside"):
        check_layer(scale("axis: 2", bias=False), [(2, 3)], [(2, 3)])
    net = Net(parse_net(net_text(scale("", bias=True), [(1, 2)], 1)))
    with pytest.raises(ShapeError, match=r"built for an operand of shape \(2,\)"):
        net.layer("l")(torch.zeros(1, 3))
