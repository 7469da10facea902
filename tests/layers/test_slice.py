import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from tests.helpers import check_layer


@pytest.mark.parametrize(
    ("text", "cuts", "axis"),
    [
        ("axis: 1 slice_point: 1 slice_point: 4", [1, 4], 1),
        ("slice_dim: 1", [2, 4], 1),
        ("axis: -1", [1, 2], 2),
        ("", [2, 4], 1),
        ("axis: 0 slice_point: [1, 2]", [1, 2], 0),
    ],
)
def test_slice(text: str, cuts: list[int], axis: int) -> None:
    x = np.random.default_rng(0).standard_normal((4, 6, 3))
    parts = np.split(x, cuts, axis)
    check_layer(
        f'type: "Slice" slice_param {{ {text} }}',
        [x],
        [p.shape for p in parts],
        lambda a: np.split(a, cuts, axis),
    )


def test_one_top_is_the_bottom() -> None:
    check_layer('type: "Slice"', [(2, 3)], [(2, 3)], lambda x: x)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axis: 1 slice_dim: 1", "both axis and slice_dim"),
        ("slice_point: 1 slice_point: 2", "gives 2 slice_point values for 2 tops; give 1"),
        ("slice_point: 5", "must increase strictly between 0 and the 5 entries of axis 1"),
        ("slice_point: 0", "must increase strictly"),
        ("", "has 5 entries, not divisible among 2 tops"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(f'type: "Slice" slice_param {{ {text} }}', [(2, 5)], [(2, 2), (2, 3)])
