import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text

CASES = [
    ("", (3,), (3, 1, 1)),
    ("axis: 0", (2,), (2, 1, 1, 1)),
    ("num_axes: 2", (3, 4), (3, 4, 1)),
    ("num_axes: -1", (3, 4, 5), (3, 4, 5)),
    ("axis: -1", (5,), (5,)),
    ("axis: 2 num_axes: -1", (4, 5), (4, 5)),
    ("num_axes: 0", (), ()),
]


@pytest.mark.parametrize(("text", "shape", "broadcast"), CASES)
def test_blob(text: str, shape: tuple[int, ...], broadcast: tuple[int, ...]) -> None:
    net = check_layer(
        f'type: "Bias" bias_param {{ {text} }}',
        [(2, 3, 4, 5)],
        [(2, 3, 4, 5)],
        lambda x, b: x + b.reshape(broadcast),
        in_place=True,
        onnx=text != "axis: 0",
    )
    assert [tuple(b.value.shape) for b in net.learnable] == [shape]


@pytest.mark.parametrize(("text", "shape", "broadcast"), [*CASES, ("axis: 1", (), ())])
def test_bottom(text: str, shape: tuple[int, ...], broadcast: tuple[int, ...]) -> None:
    net = check_layer(
        f'type: "Bias" bias_param {{ {text} }}',
        [(2, 3, 4, 5), shape],
        [(2, 3, 4, 5)],
        lambda x, b: x + b.reshape(broadcast),
    )
    assert net.learnable == []


def test_filler() -> None:
    text = 'type: "Bias" bias_param { filler { value: 2.5 } }'
    net = Net(parse_net(net_text(text, [(1, 2)], 1)))
    np.testing.assert_array_equal(net.layer("l")(torch.zeros(1, 2)).detach(), [[2.5, 2.5]])


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("axis: 4", [(2, 3, 4, 5)], "axis 4 is outside bottom shape"),
        ("num_axes: 4", [(2, 3, 4, 5)], "num_axes 4 from axis 1 does not fit"),
        ("", [(2, 3, 4), (4,)], r"shape \(4,\), which does not match bottom 'in0' \(2, 3, 4\)"),
    ],
)
def test_errors(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(f'type: "Bias" bias_param {{ {text} }}', shapes, [shapes[0]])


def test_other_size_than_built_for() -> None:
    net = Net(parse_net(net_text('type: "Bias"', [(1, 2)], 1)))
    with pytest.raises(ShapeError, match=r"built for an operand of shape \(2,\).*needs \(3,\)"):
        net.layer("l")(torch.zeros(1, 3))
