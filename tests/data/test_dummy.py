import numpy as np
import pytest

from caffe_bridge.data import DummySource
from caffe_bridge.errors import DataError
from caffe_bridge.graph import parse_net


def source(param: str, tops: int = 2) -> DummySource:
    names = " ".join(f'top: "t{i}"' for i in range(tops))
    text = f'layer {{ name: "d" type: "DummyData" {names} dummy_data_param {{ {param} }} }}'
    return DummySource(parse_net(text).layers[0])


SHAPE = "shape { dim: 50 dim: 40 }"


def test_shapes_for_all_or_one_each() -> None:
    assert source("shape { dim: 2 dim: 3 }").shapes(0) == [(2, 3), (2, 3)]
    assert source("shape { dim: 2 } shape { dim: 5 }").shapes(0) == [(2,), (5,)]
    legacy = "num: 2 num: 4 channels: 3 height: 5 width: 6"
    assert source(legacy).shapes(0) == [(2, 3, 5, 6), (4, 3, 5, 6)]


def test_without_fillers_all_is_zero() -> None:
    values = source("shape { dim: 2 }").next(0)
    assert [v.dtype for v in values] == [np.float32] * 2
    np.testing.assert_array_equal(values, np.zeros((2, 2)))


def test_constants_are_filled_once_and_others_each_time() -> None:
    made = source(
        f'{SHAPE} data_filler {{ type: "constant" value: 3 }} data_filler {{ type: "uniform" }}'
    )
    constant, first = made.next(0)
    constant[0, 0] = 7
    again, second = made.next(0)
    assert made.fixed == [True, False]
    assert again[0, 0] == 7 and again[1, 1] == 3
    assert not np.array_equal(first, second)
    made.reset()
    np.testing.assert_array_equal(made.next(0)[1], first)


@pytest.mark.parametrize(
    ("filler", "low", "high", "mean", "std"),
    [
        ('type: "uniform" min: -2 max: 4', -2, 4, 1, 3**0.5),
        ('type: "gaussian" mean: 1 std: 2', -np.inf, np.inf, 1, 2),
        ('type: "xavier"', -((3 / 40) ** 0.5), (3 / 40) ** 0.5, 0, 40**-0.5),
        ('type: "msra" variance_norm: FAN_OUT', -np.inf, np.inf, 0, (2 / 50) ** 0.5),
        ('type: "msra" variance_norm: AVERAGE', -np.inf, np.inf, 0, (2 / 45) ** 0.5),
        ('type: "positive_unitball"', 0, 1, 1 / 40, 1 / 40 / 3**0.5),
        ('type: "gaussian" std: 1 sparse: 5', -np.inf, np.inf, 0, 0.1**0.5),
    ],
)
def test_fillers_have_their_moments(
    filler: str, low: float, high: float, mean: float, std: float
) -> None:
    (values,) = source(f"{SHAPE} data_filler {{ {filler} }}", 1).next(0)
    assert values.shape == (50, 40) and values.min() >= low and values.max() <= high
    # 2000 values: five standard errors of the mean; spread within a tenth (a fifth when sparse).
    assert abs(values.mean() - mean) < 5 * std / 2000**0.5
    assert values.std() == pytest.approx(std, rel=0.2 if "sparse" in filler else 0.1)


@pytest.mark.parametrize("kind", ["constant", "uniform", "gaussian", "xavier", "positive_unitball"])
def test_scalars(kind: str) -> None:
    (value,) = source(f'shape {{ }} data_filler {{ type: "{kind}" }}', 1).next(0)
    assert isinstance(value, np.ndarray) and (value.shape, value.dtype) == ((), np.float32)


def test_unitball_rows_sum_to_one() -> None:
    (values,) = source(f'{SHAPE} data_filler {{ type: "positive_unitball" }}', 1).next(0)
    np.testing.assert_allclose(values.sum(axis=1), np.ones(50), rtol=1e-5)


@pytest.mark.parametrize(
    ("param", "message"),
    [
        (SHAPE * 3, "gives 3 shape for 2 tops"),
        (SHAPE + "data_filler {}" * 3, "gives 3 data_filler for 2 tops"),
        (SHAPE + " num: 1", "both shape and num"),
        ("num: 1 channels: 1 height: 1", "gives 0 width for 2 tops"),
        (SHAPE + 'data_filler { type: "odd" }', "filler type 'odd' is not known"),
        (SHAPE + 'data_filler { type: "gaussian" std: -1 }', "gaussian filler has std -1; give 0"),
        (SHAPE + 'data_filler { type: "uniform" min: 2 max: 1 }', "has min 2 above max 1; swap"),
        ("shape { dim: -1 dim: 2 }", r"shape \(-1, 2\); every dim must be 1 or more"),
        (
            'shape { dim: 0 dim: 2 } data_filler { type: "xavier" }',
            r"shape \(0, 2\); every dim must be 1 or more",
        ),
    ],
)
def test_what_does_not_fit_is_refused(param: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        source(param)
