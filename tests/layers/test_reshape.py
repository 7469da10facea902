import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text

SHAPE = (2, 3, 4, 5)


def shape(*dims: int) -> str:
    return "shape { " + " ".join(f"dim: {d}" for d in dims) + " }"


@pytest.mark.parametrize(
    ("text", "top"),
    [
        (shape(0, -1, 5), (2, 12, 5)),
        (shape(0, 0, -1), (2, 3, 20)),
        (shape(-1), (120,)),
        (shape(-1, 10), (12, 10)),
        (shape(2, -1), (2, 60)),
        (shape(4, 30), (4, 30)),
        (shape(2, 2, -1) + " axis: 1 num_axes: 2", (2, 2, 2, 3, 5)),
        (shape(0, 2, -1) + " axis: 1", (2, 3, 2, 10)),
        (shape(1, 1) + " axis: -1 num_axes: 0", (2, 3, 4, 5, 1, 1)),
        (shape(20) + " axis: -3", (2, 3, 20)),
        (shape(1) + " axis: 0 num_axes: 0", (1, 2, 3, 4, 5)),
        (shape(6) + " axis: 0 num_axes: 2", (6, 4, 5)),
        ("", None),
    ],
)
def test_reshape(text: str, top: tuple[int, ...] | None) -> None:
    if top is None:
        check_layer('type: "Reshape" reshape_param { axis: 1 num_axes: 1 }', [(2, 1, 3)], [(2, 3)])
        return
    check_layer(
        f'type: "Reshape" reshape_param {{ {text} }}', [SHAPE], [top], lambda x: x.reshape(top)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (shape(-1, -1), r"shape \[-1, -1\] may hold one -1"),
        (shape(-2), "no other negative size"),
        (shape(0, 7), r"holds 120 values but top shape \(2, 7\) 14"),
        (shape(0, 7, -1), "do not divide by the 14 of the known sizes"),
        (shape(1, 1, 1, 1, 0), "dim 4 is 0 but bottom shape .* has no axis 4 to copy"),
        (shape(1) + " axis: 5", "axis 5 is outside bottom shape"),
        (shape(1) + " axis: -6", "axis -6 is outside bottom shape"),
        (shape(1) + " axis: 2 num_axes: 3", "axis 2 and num_axes 3 reach beyond"),
        (shape(1) + " num_axes: -2", "num_axes -2 must be -1 or more"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(f'type: "Reshape" reshape_param {{ {text} }}', [SHAPE], [SHAPE])


def test_not_in_place() -> None:
    with pytest.raises(ShapeError, match="cannot work in place"):
        Net(parse_net(net_text('type: "Reshape"', [SHAPE], 1, in_place=True)))
