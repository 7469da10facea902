import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text

SHAPE = (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("text", "top"),
    [
        ("", (2, 60)),
        ("axis: 2", (2, 3, 20)),
        ("axis: 1 end_axis: 2", (2, 12, 5)),
        ("axis: -3 end_axis: -2", (2, 12, 5)),
        ("axis: 0 end_axis: 1", (6, 4, 5)),
        ("axis: 0", (120,)),
        ("axis: 2 end_axis: 2", SHAPE),
        ("axis: 2 end_axis: 1", (2, 3, 1, 4, 5)),
    ],
)
def test_flatten(text: str, top: tuple[int, ...]) -> None:
    check_layer(
        f'type: "Flatten" flatten_param {{ {text} }}', [SHAPE], [top], lambda x: x.reshape(top)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axis: 3 end_axis: 1", "axis 3 lies after end_axis 1"),
        ("axis: 4", r"axis 4 is outside bottom shape \(2, 3, 4, 5\)"),
        ("end_axis: -5", "end_axis -5 is outside"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(f'type: "Flatten" flatten_param {{ {text} }}', [SHAPE], [SHAPE])


def test_not_in_place() -> None:
    with pytest.raises(ShapeError, match="cannot work in place"):
        Net(parse_net(net_text('type: "Flatten"', [SHAPE], 1, in_place=True)))
