import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.layers.pool_window import PoolWindow
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text
from tests.layers.test_pooling import planes


def spp(text: str) -> str:
    return f'type: "SPP" spp_param {{ {text} }}'


def pyramid(x: np.ndarray, windows: list[PoolWindow], which: int) -> np.ndarray:
    return np.concatenate([planes(x, w, which).reshape(len(x), -1) for w in windows], 1)


THREE = [
    PoolWindow((12, 10), (12, 10)),
    PoolWindow((6, 5), (6, 5)),
    PoolWindow((3, 3), (3, 3), (0, 1)),
]


@pytest.mark.parametrize(("pool", "which"), [("MAX", 0), ("AVE", 2)])
def test_three_levels(pool: str, which: int) -> None:
    check_layer(
        spp(f"pyramid_height: 3 pool: {pool}"),
        [(2, 2, 12, 10)],
        [(2, 2 * 21)],
        lambda x: pyramid(x, THREE, which),
    )


@pytest.mark.parametrize(("pool", "which"), [("MAX", 0), ("AVE", 2)])
def test_one_level_keeps_four_axes(pool: str, which: int) -> None:
    check_layer(
        spp(f"pyramid_height: 1 pool: {pool}"),
        [(2, 3, 4, 5)],
        [(2, 3, 1, 1)],
        lambda x: planes(x, PoolWindow((4, 5), (4, 5)), which),
    )


def test_stochastic() -> None:
    x = np.abs(np.random.default_rng(0).standard_normal((2, 1, 4, 4))) + 0.1
    windows = [PoolWindow((4, 4), (4, 4)), PoolWindow((2, 2), (2, 2))]
    text = spp("pyramid_height: 2 pool: STOCHASTIC")
    check_layer(text, [x], [(2, 5)], lambda v: pyramid(v**2, windows, 2) / pyramid(v, windows, 2))
    net = Net(parse_net(net_text(text, [(2, 1, 4, 4)], 1), "TRAIN"))
    torch.manual_seed(0)
    source = torch.from_numpy(x.astype(np.float32))
    drawn = net.layer("l")(source)
    assert all(set(d.tolist()) <= set(s.flatten().tolist()) for d, s in zip(drawn, source))


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("", (1, 1, 4, 4), "pyramid_height is missing"),
        ("pyramid_height: 3", (1, 1, 3, 4), "too small for 4 x 4 bins"),
        ("pyramid_height: 1", (1, 4), "takes a bottom with 4 axes"),
        ("pyramid_height: 2 pool: STOCHASTIC", (1, 1, 5, 4), "STOCHASTIC takes no padding"),
    ],
)
def test_errors(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(spp(text), [shape], [(1, 1)])
