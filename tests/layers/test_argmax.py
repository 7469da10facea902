import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from tests.helpers import Array, check_layer

#: Coarse values, so that most of the largest are tied.
TIED = np.random.default_rng(2).integers(0, 3, (2, 5, 4, 3)).astype(np.float64)
PLAIN = np.random.default_rng(3).standard_normal((2, 5, 4, 3))


def largest(x: Array, axis: int, top_k: int) -> tuple[Array, Array]:
    """Positions and values by a plain sort of (value, position) pairs, largest pair first."""
    moved = np.moveaxis(x, axis, -1)
    places = np.empty((*moved.shape[:-1], top_k))
    values = np.empty_like(places)
    for at in np.ndindex(*moved.shape[:-1]):
        pairs = sorted(zip(moved[at], range(moved.shape[-1]), strict=True), reverse=True)[:top_k]
        values[at], places[at] = [p[0] for p in pairs], [p[1] for p in pairs]
    return np.moveaxis(places, -1, axis), np.moveaxis(values, -1, axis)


@pytest.mark.parametrize("x", [TIED, PLAIN], ids=["tied", "plain"])
@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("axis", [1, -3])
def test_along_an_axis(x: Array, top_k: int, values: bool, axis: int) -> None:
    top = (2, top_k, 4, 3)
    check_layer(
        f'type: "ArgMax" argmax_param {{ axis: {axis} top_k: {top_k} '
        f"out_max_val: {str(values).lower()} }}",
        [x],
        [top],
        lambda a: largest(a, 1, top_k)[values],
        gradient=False,
    )


@pytest.mark.parametrize("x", [TIED, PLAIN], ids=["tied", "plain"])
@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("values", [False, True])
def test_over_the_whole_item(x: Array, top_k: int, values: bool) -> None:
    def reference(a: Array) -> Array:
        found = largest(a.reshape(2, -1), 1, top_k)
        return np.stack(found[: 1 + values], 1)[..., None]

    check_layer(
        f'type: "ArgMax" argmax_param {{ top_k: {top_k} out_max_val: {str(values).lower()} }}',
        [x],
        [(2, 1 + values, top_k, 1)],
        reference,
        gradient=False,
    )


def test_rank_is_at_least_three() -> None:
    x = PLAIN[:, :, 0, 0]
    check_layer('type: "ArgMax"', [x], [(2, 1, 1)], lambda a: a.argmax(1)[:, None, None],
                gradient=False)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top_k: 0", "top_k is 0"),
        ("top_k: 7 axis: 1", "top_k 7 is more than the 6 values"),
        ("axis: 2", r"axis 2 is outside bottom shape \(2, 6\)"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(f'type: "ArgMax" argmax_param {{ {text} }}', [(2, 6)], [(2, 1, 1)])
