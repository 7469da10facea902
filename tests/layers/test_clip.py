import numpy as np
import pytest
import torch

from caffe_bridge.errors import ExportError, ShapeError
from caffe_bridge.layers.base import Layer
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import check_layer, layer_spec_of

SHAPE = (2, 3, 4, 5)


def gradient(layer: Layer, values: list[float]) -> list[float]:
    x = torch.tensor([values], requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    return list(x.grad[0].tolist())


def test_clip() -> None:
    net = check_layer(
        'type: "Clip" clip_param { min: -0.75 max: 0.5 }',
        [SHAPE],
        [SHAPE],
        lambda x: np.clip(x, -0.75, 0.5),
        in_place=True,
    )
    assert gradient(net.layer("l"), [-1.0, -0.75, 0.0, 0.5, 0.6]) == [0.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("text", "name"), [("min: 0", "max"), ("max: 0", "min")])
def test_clip_needs_both_limits(text: str, name: str) -> None:
    with pytest.raises(ShapeError, match=f"clip_param has no {name}"):
        check_layer(f'type: "Clip" clip_param {{ {text} }}', [SHAPE], [SHAPE])


def test_clip_with_exchanged_limits_gives_min() -> None:
    text = 'type: "Clip" clip_param { min: 2 max: 1 }'
    net = check_layer(text, [SHAPE], [SHAPE], lambda x: np.full(x.shape, 2.0), onnx=False)
    with pytest.raises(ExportError, match=r"l \(Clip\).*min 2 is above max 1"):
        export(net)


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_threshold(threshold: float) -> None:
    check_layer(
        f'type: "Threshold" threshold_param {{ threshold: {threshold} }}',
        [SHAPE],
        [SHAPE],
        lambda x: x > threshold,
        in_place=True,
        gradient=False,
    )


def test_threshold_is_strict() -> None:
    layer = Net(layer_spec_of('type: "Threshold"', [(1, 3)], 1, "TEST")).layer("l")
    assert layer(torch.tensor([[-1.0, 0.0, 1.0]])).tolist() == [[0.0, 0.0, 1.0]]
    assert not layer.differentiable


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_relu6(slope: float) -> None:
    net = check_layer(
        f'type: "ReLU6" relu6_param {{ negative_slope: {slope} }}',
        [np.random.default_rng(0).standard_normal(SHAPE) * 6],
        [SHAPE],
        lambda x: np.clip(x, 0, 6) + slope * np.minimum(x, 0),
        in_place=True,
    )
    got = gradient(net.layer("l"), [-1.0, 0.0, 1.0, 6.0, 7.0])
    assert got == [pytest.approx(slope), pytest.approx(slope), 1.0, 0.0, 0.0]


def test_hard_sigmoid_and_swish() -> None:
    x = np.random.default_rng(0).standard_normal(SHAPE) * 4
    check_layer('type: "HSigmoid"', [x], [SHAPE], lambda a: np.clip(a + 3, 0, 6) / 6,
                in_place=True)  # fmt: skip
    check_layer('type: "HSwish"', [x], [SHAPE], lambda a: a * np.clip(a + 3, 0, 6) / 6,
                in_place=True)  # fmt: skip
