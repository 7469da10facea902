import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.layers.pool_window import LOWEST
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text
from tests.layers.test_pool_window import PoolWindow, loops


def planes(x: np.ndarray, window: PoolWindow, which: int) -> np.ndarray:
    """One result of the loops for every plane of (N, C, H, W)."""
    made = [loops(plane, window)[which] for plane in x.reshape(-1, *x.shape[2:])]
    return np.reshape(made, (*x.shape[:2], *made[0].shape))


GEOMETRIES = [
    ("kernel_size: 3 stride: 2", (8, 7), PoolWindow((3, 3), (2, 2))),
    ("kernel_size: 3 stride: 2 pad: 1", (6, 7), PoolWindow((3, 3), (2, 2), (1, 1))),
    ("kernel_size: 3 stride: 2 pad: 2", (7, 6), PoolWindow((3, 3), (2, 2), (2, 2))),
    ("kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 2", (5, 6),
     PoolWindow((2, 3), (1, 2), (0, 2))),
    ("kernel_size: 3 stride: 2 round_mode: FLOOR", (8, 8), PoolWindow((3, 3), (2, 2), floor=True)),
    ("kernel_size: 3 stride: 2 ceil_mode: false", (8, 8), PoolWindow((3, 3), (2, 2), floor=True)),
    ("kernel_size: 2 stride: 2 torch_pooling: true", (5, 5),
     PoolWindow((2, 2), (2, 2), floor=True)),
    ("kernel_size: 5 stride: 4", (2, 6), PoolWindow((5, 5), (4, 4))),
    ("global_pooling: true", (4, 5), PoolWindow((4, 5))),
]  # fmt: skip


@pytest.mark.parametrize(("text", "size", "window"), GEOMETRIES)
@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_geometry(pool: str, text: str, size: tuple[int, int], window: PoolWindow) -> None:
    top = (2, 3, *window.sizes(size))
    check_layer(
        f'type: "Pooling" pooling_param {{ pool: {pool} {text} }}',
        [(2, 3, *size)],
        [top],
        lambda x: planes(x, window, 0 if pool == "MAX" else 2),
        macs=0,
    )


@pytest.mark.parametrize(
    ("text", "size", "window"),
    [GEOMETRIES[1], GEOMETRIES[2], GEOMETRIES[8],
     ("kernel_size: 1 stride_h: 3 stride_w: 2", (3, 4), PoolWindow((1, 1), (3, 2)))],
)  # fmt: skip
def test_mask(text: str, size: tuple[int, int], window: PoolWindow) -> None:
    top = (2, 3, *window.sizes(size))
    check_layer(
        f'type: "Pooling" pooling_param {{ {text} }}',
        [(2, 3, *size)],
        [top, top],
        lambda x: [planes(x, window, 0), planes(x, window, 1)],
    )


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_empty_last_window(pool: str) -> None:
    window = PoolWindow((1, 2), (2, 4))
    check_layer(
        f'type: "Pooling" pooling_param {{ pool: {pool} kernel_h: 1 kernel_w: 2 '
        "stride_h: 2 stride_w: 4 }",
        [(2, 2, 5, 4)],
        [(2, 2, 3, 2)],
        lambda x: planes(x, window, 0 if pool == "MAX" else 2),
        gradient=pool == "MAX",
    )
    assert window.sizes((5, 4)) == (3, 2)
    empty = PoolWindow((1, 1), (2, 3))
    net = check_layer(
        f'type: "Pooling" pooling_param {{ pool: {pool} kernel_size: 1 stride_h: 2 stride_w: 3 }}',
        [(1, 2, 2, 3)],
        [(1, 2, 2, 2)],
        lambda x: planes(x, empty, 0 if pool == "MAX" else 2),
        gradient=pool == "MAX",
    )
    last = net.layer("l")(torch.ones(1, 1, 2, 3))[0, 0, 1]
    assert last[0] == LOWEST if pool == "MAX" else last[0].isnan()


def test_padding_outside_the_divisor() -> None:
    window = PoolWindow((3, 3), (2, 2), (1, 1))

    def reference(x: np.ndarray) -> np.ndarray:
        inside = planes(np.ones_like(x), window, 2)
        return planes(x, window, 2) / inside

    check_layer(
        'type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 '
        "avg_include_pad: false }",
        [(2, 2, 6, 5)],
        [(2, 2, 4, 3)],
        reference,
    )


STOCHASTIC = 'type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }'


def test_stochastic_in_test_phase() -> None:
    x = np.abs(np.random.default_rng(1).standard_normal((2, 2, 5, 4)))
    x[0, 0, :2, :2] = 0
    window = PoolWindow((2, 2), (2, 2))

    def reference(v: np.ndarray) -> np.ndarray:
        total = planes(v, window, 2)
        squares = planes(v**2, window, 2)
        return np.divide(squares, total, out=np.zeros_like(total), where=total > 0)

    check_layer(STOCHASTIC, [x], [(2, 2, 3, 2)], reference, gradient=False)
    check_layer(STOCHASTIC, [x + 0.5], [(2, 2, 3, 2)], reference)


def test_stochastic_draws_in_proportion() -> None:
    net = Net(parse_net(net_text(STOCHASTIC, [(4000, 1, 2, 2)], 1), "TRAIN"))
    x = torch.tensor([0.0, 1.0, 2.0, 5.0]).reshape(1, 1, 2, 2).repeat(4000, 1, 1, 1)
    x.requires_grad_()
    torch.manual_seed(0)
    y = net.layer("l")(x)
    shares = [float((y == v).float().mean()) for v in (0, 1, 2, 5)]
    np.testing.assert_allclose(shares, [0, 0.125, 0.25, 0.625], atol=0.03)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal((x.grad * x).sum((1, 2, 3)), y.detach().flatten())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs either kernel_size or both"),
        ("kernel_h: 2", "needs either kernel_size or both"),
        ("kernel_size: 2 kernel_h: 2 kernel_w: 2", "needs either kernel_size or both"),
        ("kernel_size: 2 pad: 0 pad_h: 0 pad_w: 0", "needs either pad or both pad_h and pad_w"),
        ("kernel_size: 2 stride_h: 2", "needs either stride or both"),
        ("kernel_size: 2 pad: 2", r"pad \(2, 2\) must be smaller than kernel \(2, 2\)"),
        ("kernel_size: 0", r"kernel \(0, 0\) and stride \(1, 1\) must be positive"),
        ("global_pooling: true kernel_size: 2", "kernel size with global_pooling"),
        ("global_pooling: true stride: 2", "needs pad 0 and stride 1"),
        ("pool: STOCHASTIC kernel_size: 3 pad: 1", "STOCHASTIC takes no padding"),
        ("kernel_size: 7", r"kernel \(7, 7\) with pad \(0, 0\) does not fit"),
    ],
)
def test_bad_parameters_are_named(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(f'type: "Pooling" pooling_param {{ {text} }}', [(1, 1, 5, 5)], [(1, 1, 1, 1)])


def test_shape_and_mask_rules() -> None:
    with pytest.raises(ShapeError, match=r"takes a bottom with 4 axes.*\(2, 3\)"):
        check_layer('type: "Pooling" pooling_param { kernel_size: 1 }', [(2, 3)], [(2, 3)])
    with pytest.raises(ShapeError, match="only MAX has a second top"):
        check_layer('type: "Pooling" pooling_param { pool: AVE kernel_size: 1 }',
                    [(1, 1, 1, 1)], [(1, 1, 1, 1)] * 2)  # fmt: skip
