import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from tests.helpers import check_layer


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("tiles: 3", (1, 3, 1)),
        ("tiles: 2 axis: 0", (2, 1, 1)),
        ("tiles: 2 axis: -1", (1, 1, 2)),
        ("tiles: 1 axis: 2", (1, 1, 1)),
    ],
)
def test_tile(text: str, repeats: tuple[int, ...]) -> None:
    check_layer(
        f'type: "Tile" tile_param {{ {text} }}',
        [(2, 3, 4)],
        [tuple(np.multiply((2, 3, 4), repeats))],
        lambda x: np.tile(x, repeats),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "tiles is missing"), ("tiles: 0", "tiles is 0"), ("tiles: 2 axis: 3", "axis 3 is out")],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(f'type: "Tile" tile_param {{ {text} }}', [(2, 3)], [(2, 3)])
