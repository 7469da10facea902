import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from tests.helpers import check_layer


@pytest.mark.parametrize(
    ("text", "shapes", "top"),
    [
        ("", [(2, 3, 4), (2, 1, 4), (2, 2, 4)], (2, 6, 4)),
        ("axis: -1", [(2, 3, 3), (2, 3, 1)], (2, 3, 4)),
        ("axis: 2", [(2, 3, 3, 2), (2, 3, 1, 2)], (2, 3, 4, 2)),
        ("concat_dim: 0", [(2, 3), (2, 3)], (4, 3)),
        ("axis: 0", [(2, 3), (1, 3), (4, 3)], (7, 3)),
        ("", [(2, 3, 4)], (2, 3, 4)),
    ],
)
def test_concat(text: str, shapes: list[tuple[int, ...]], top: tuple[int, ...]) -> None:
    axis = {"": 1, "concat_dim: 0": 0}.get(text) if "axis" not in text else int(text.split()[1])
    check_layer(
        f'type: "Concat" concat_param {{ {text} }}',
        shapes,
        [top],
        lambda *x: np.concatenate(x, axis),
    )


@pytest.mark.parametrize(
    ("text", "second", "message"),
    [
        ("axis: 1 concat_dim: 1", (2, 3), "both axis and concat_dim"),
        ("axis: 3", (2, 3), r"axis 3 is outside bottom shape \(2, 3\)"),
        ("", (3, 3), r"bottom 'in1' has shape \(3, 3\), 'in0' \(2, 3\); all but axis 1"),
        ("", (2, 3, 1), "all but axis 1 must be equal"),
    ],
)
def test_errors(text: str, second: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(f'type: "Concat" concat_param {{ {text} }}', [(2, 3), second], [(2, 6)])
