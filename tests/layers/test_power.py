import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text

SHAPE = (2, 3, 4)
POSITIVE = np.random.default_rng(5).uniform(0.2, 2.0, SHAPE)


@pytest.mark.parametrize(
    ("power", "scale", "shift"),
    [(1, 1, 0), (2, 1, 0), (1, -2, 1.5), (0.5, 2, 3), (-1, 0.5, 3), (3, 2, 0), (1.37, 1, 0.5)],
)
def test_power(power: float, scale: float, shift: float) -> None:
    check_layer(
        f'type: "Power" power_param {{ power: {power} scale: {scale} shift: {shift} }}',
        [POSITIVE],
        [SHAPE],
        lambda x: (shift + scale * x) ** power,
        in_place=True,
    )


@pytest.mark.parametrize(
    ("power", "scale", "shift", "value"), [(0, 2, 3, 1), (2, 0, 1.5, 2.25), (0, 0, 0, 1)]
)
def test_power_of_no_slope_is_a_constant(
    power: float, scale: float, shift: float, value: float
) -> None:
    net = check_layer(
        f'type: "Power" power_param {{ power: {power} scale: {scale} shift: {shift} }}',
        [SHAPE],
        [SHAPE],
        lambda x: np.full(x.shape, value),
        gradient=False,
    )
    x = torch.full(SHAPE, float("inf"))
    assert net.layer("l")(x).unique().tolist() == [value]


def test_even_power_of_negative_values() -> None:
    check_layer('type: "Power" power_param { power: 2 }', [SHAPE], [SHAPE], np.square)


@pytest.mark.parametrize(
    ("base", "scale", "shift"), [(-1, 1, 0), (-1, 0.5, 0.7), (2, 1, 0), (3, -0.5, 1), (1, 1, 2)]
)
def test_exp(base: float, scale: float, shift: float) -> None:
    check_layer(
        f'type: "Exp" exp_param {{ base: {base} scale: {scale} shift: {shift} }}',
        [SHAPE],
        [SHAPE],
        lambda x: (np.e if base == -1 else base) ** (shift + scale * x),
        in_place=True,
    )


@pytest.mark.parametrize(
    ("base", "scale", "shift"), [(-1, 1, 0), (-1, 0.5, 0.1), (2, 1, 0), (10, 3, 0.7)]
)
def test_log(base: float, scale: float, shift: float) -> None:
    check_layer(
        f'type: "Log" log_param {{ base: {base} scale: {scale} shift: {shift} }}',
        [POSITIVE],
        [SHAPE],
        lambda x: np.log(shift + scale * x) / (1 if base == -1 else np.log(base)),
        in_place=True,
    )


@pytest.mark.parametrize(
    ("layer", "base"), [("Exp", 0), ("Exp", -2), ("Log", 0), ("Log", 1), ("Log", -3)]
)
def test_bad_base(layer: str, base: float) -> None:
    with pytest.raises(ShapeError, match=f"base {base} has no logarithm"):
        text = f'type: "{layer}" {layer.lower()}_param {{ base: {base} }}'
        check_layer(text, [SHAPE], [SHAPE])


def test_absolute_value() -> None:
    net = check_layer('type: "AbsVal"', [SHAPE], [SHAPE], np.abs)
    x = torch.tensor([[-2.0, 0.0, 3.0]], requires_grad=True)
    net.layer("l")(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[-1.0, 0.0, 1.0]]


def test_absolute_value_is_not_in_place() -> None:
    with pytest.raises(ShapeError, match="cannot work in place"):
        Net(parse_net(net_text('type: "AbsVal"', [SHAPE], 1, in_place=True)))


def test_exponent_beyond_single_precision_is_infinite() -> None:
    text = net_text('type: "Exp" exp_param { shift: 1000 }', [SHAPE], 1)
    tops = Net(parse_net(text))({"in0": torch.zeros(SHAPE)})
    assert all(torch.isinf(top).all() for top in tops.values())
