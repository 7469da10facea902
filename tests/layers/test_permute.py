import pytest

from caffe_bridge.errors import ShapeError
from tests.helpers import check_layer

SHAPE = (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("order: 0 order: 2 order: 3 order: 1", (0, 2, 3, 1)),
        ("order: [0, 3]", (0, 3, 1, 2)),
        ("order: 1", (1, 0, 2, 3)),
        ("", (0, 1, 2, 3)),
    ],
)
def test_permute(text: str, order: tuple[int, ...]) -> None:
    check_layer(
        f'type: "Permute" permute_param {{ {text} }}',
        [SHAPE],
        [tuple(SHAPE[i] for i in order)],
        lambda x: x.transpose(order),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("order: [0, 1, 1]", r"order \[0, 1, 1\] names an axis twice"),
        ("order: 4", "names an axis that a bottom of 4 axes does not have"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(f'type: "Permute" permute_param {{ {text} }}', [SHAPE], [SHAPE])
