import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.net import Net
from tests.helpers import check_layer, layer_spec_of


def normal(x: np.ndarray, groups: int, eps: float) -> np.ndarray:
    flat = x.reshape(len(x), groups, -1)
    unit = (flat - flat.mean(2, keepdims=True)) / np.sqrt(flat.var(2, keepdims=True) + eps)
    return unit.reshape(x.shape)


@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (3, 6), (2, 6, 5)])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_groups(shape: tuple[int, ...], groups: int) -> None:
    check_layer(
        f'type: "GroupNorm" group_norm_param {{ group_num: {groups} eps: 0.01 }}',
        [shape],
        [shape],
        lambda x: normal(x, groups, 0.01),
        in_place=True,
    )


def test_scale_and_bias() -> None:
    check_layer(
        'type: "GroupNorm" group_norm_param { group: 2 scale_filler { value: 1 } }',
        [(2, 4, 3, 2)],
        [(2, 4, 3, 2)],
        lambda x, s, b: normal(x, 2, 1e-5) * s + b,
    )


def test_a_group_of_one_value_gives_zero() -> None:
    layer = 'type: "GroupNorm" group_norm_param { group_num: 3 }'
    check_layer(layer, [(2, 3)], [(2, 3)], lambda x: 0 * x, gradient=False)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("", (2, 3, 2), "divide into 32 groups"),
        ("group_num: 0", (2, 3, 2), "number of groups is 0"),
        ("group_num: 1", (3,), "has no channels"),
    ],
)
def test_errors(text: str, shape: tuple[int, ...], message: str) -> None:
    layer = f'type: "GroupNorm" group_norm_param {{ {text} }}'
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(layer, [shape], 1, "TEST"))
