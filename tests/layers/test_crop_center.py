import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text


def text(*borders: int) -> str:
    sizes = " ".join(f"crop_size: {border}" for border in borders)
    return f'type: "CropCenter" crop_center_param {{ {sizes} }}'


def test_borders() -> None:
    check_layer(
        text(0, 1, 2, 0), [(2, 3, 6, 2)], [(2, 1, 2, 2)], lambda x: x[:, 1:-1, 2:-2]
    )  # fmt: skip


def test_no_border() -> None:
    check_layer(text(0, 0), [(2, 3)], [(2, 3)], lambda x: x)


@pytest.mark.parametrize("borders", [(0,), (0, 2)])
def test_errors(borders: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="must have a border for each axis"):
        Net(parse_net(net_text(text(*borders), [(2, 4)], 1), "TEST"))
