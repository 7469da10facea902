import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.net import Net
from tests.helpers import Array, check_layer, layer_spec_of

SHAPE = (2, 3, 4, 5)


def shrink(x: Array, t: Array | float) -> Array:
    return np.sign(x) * np.maximum(np.abs(x) - t, 0)


def symmetric(x: Array, t: Array) -> Array:
    return shrink(x, np.maximum(t, 0).reshape(-1, *(1,) * (x.ndim - 2)))


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_sparsify(threshold: float) -> None:
    check_layer(
        f'type: "Sparsify" sparsify_param {{ thre: {threshold} }}',
        [SHAPE],
        [SHAPE],
        lambda x: shrink(x, threshold),
        in_place=True,
    )


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("coef: 0.25", [0.75, 0.75, 1.0, 1.25, 1.25]),
        ("coef: 0.25 thre: 1", [0.75, 0.0, 0.0, 0.0, 1.25]),
        ("thre: 1", [1.0, 0.0, 0.0, 0.0, 1.0]),
    ],
)
def test_sparsify_pulls_towards_zero(text: str, want: list[float]) -> None:
    text = f'type: "Sparsify" sparsify_param {{ {text} }}'
    x = torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0]], requires_grad=True)
    Net(layer_spec_of(text, [(1, 5)], 1, "TRAIN")).layer("l")(x).sum().backward()
    assert x.grad is not None
    assert x.grad[0].tolist() == want


@pytest.mark.parametrize("text", ["thre: -1", "coef: -1"])
def test_sparsify_wants_no_negative_values(text: str) -> None:
    with pytest.raises(ShapeError, match=f"{text[:4]} -1 is negative"):
        check_layer(f'type: "Sparsify" sparsify_param {{ {text} }}', [SHAPE], [SHAPE])


@pytest.mark.parametrize("shape", [SHAPE, (4, 3)])
@pytest.mark.parametrize("shared", [True, False])
def test_symmetric_rectify(shape: tuple[int, ...], shared: bool) -> None:
    net = check_layer(
        f'type: "SymmetricRectify" symmetric_rectify_param {{ channel_shared: '
        f"{str(shared).lower()} }}",
        [shape],
        [shape],
        symmetric,
        blobs=[np.array(0.4) if shared else np.array([0.2, 0.5, 1.0])],
        in_place=True,
    )
    assert tuple(net.layer("l").blobs[0].shape) == (() if shared else (3,))


def test_negative_thresholds_are_raised_in_every_forward_pass() -> None:
    layer = Net(layer_spec_of('type: "SymmetricRectify"', [(1, 2)], 1, "TEST")).layer("l")
    assert layer.blobs[0].tolist() == [0.0, 0.0]
    with torch.no_grad():
        layer.blobs[0].copy_(torch.tensor([-1.0, 0.5]))
    assert layer(torch.tensor([[2.0, 2.0]])).tolist() == [[2.0, 1.5]]
    assert layer.blobs[0].tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", [-3.0, 5.0]),
        ("thre_decay: 0.25", [-3.25, 4.75]),
        ("channel_shared: true thre_decay: 0.25", [1.75]),
    ],
)
def test_gradient_of_the_threshold(text: str, want: list[float]) -> None:
    text = f'type: "SymmetricRectify" symmetric_rectify_param {{ {text} }}'
    layer = Net(layer_spec_of(text, [(2, 2)], 1, "TRAIN")).layer("l")
    with torch.no_grad():
        layer.blobs[0].fill_(0.5)
    x = torch.tensor([[2.0, -2.0], [0.1, -3.0]], requires_grad=True)
    layer(x).backward(torch.tensor([[3.0, 1.0], [7.0, 4.0]]))
    assert x.grad is not None
    assert x.grad.tolist() == [[3.0, 1.0], [0.0, 4.0]]
    assert layer.blobs[0].grad.reshape(-1).tolist() == want


def test_filler_and_shape_are_checked() -> None:
    filler = 'symmetric_rectify_param { filler { type: "constant" value: %s } }'
    layer = 'type: "SymmetricRectify" '
    net = Net(layer_spec_of(layer + filler % "0.5", [(1, 2)], 1, "TEST"))
    assert net.layer("l").blobs[0].tolist() == [0.5, 0.5]
    with pytest.raises(ShapeError, match="filler makes negative thresholds"):
        Net(layer_spec_of(layer + filler % "-0.5", [(1, 2)], 1, "TEST"))
    with pytest.raises(ShapeError, match="needs two axes"):
        Net(layer_spec_of(layer, [(2,)], 1, "TEST"))
