import pytest

from caffe_bridge.errors import ShapeError
from tests.helpers import check_layer

SHAPE = (2, 3, 4, 5)


@pytest.mark.parametrize("factor", [(2, 3, 1, 1), (2, 3)])
def test_axpy(factor: tuple[int, ...]) -> None:
    check_layer(
        'type: "Axpy"',
        [factor, SHAPE, SHAPE],
        [SHAPE],
        lambda a, x, y: a.reshape(2, 3, 1, 1) * x + y,
    )


def test_on_vectors() -> None:
    check_layer('type: "Axpy"', [(2, 3)] * 3, [(2, 3)], lambda a, x, y: a * x + y)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3), SHAPE, (2, 3, 4, 1)], r"x has shape \(2, 3, 4, 5\) and y \(2, 3, 4, 1\)"),
        ([(2, 1), SHAPE, SHAPE], r"factors have shape \(2, 1\)"),
        ([(2, 3, 4, 1), SHAPE, SHAPE], r"factors have shape \(2, 3, 4, 1\)"),
        ([(2, 3)] * 2, "takes 3 bottoms, found 2"),
    ],
)
def test_errors(shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer('type: "Axpy"', shapes, [SHAPE])
