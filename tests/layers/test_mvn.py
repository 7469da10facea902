import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text


def normalise(x: np.ndarray, across: bool, variance: bool, eps: float) -> np.ndarray:
    x = x.reshape(*x.shape, *[1] * (4 - x.ndim))
    axes = (1, 2, 3) if across else (2, 3)
    y = x - x.mean(axes, keepdims=True)
    return y / (np.sqrt((y**2).mean(axes, keepdims=True)) + eps) if variance else y


def mvn(across: bool, variance: bool, eps: float = 1e-9) -> str:
    return (
        f'type: "MVN" mvn_param {{ across_channels: {str(across).lower()} '
        f"normalize_variance: {str(variance).lower()} eps: {eps} }}"
    )


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("variance", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4)])
def test_value(across: bool, variance: bool, shape: tuple[int, ...]) -> None:
    check_layer(
        mvn(across, variance),
        [shape],
        [(*shape, *[1] * (4 - len(shape)))],
        lambda x: normalise(x, across, variance, 1e-9),
    )


def test_eps_is_outside_the_root() -> None:
    check_layer(
        mvn(across=False, variance=True, eps=0.5),
        [(2, 3, 4, 5)],
        [(2, 3, 4, 5)],
        lambda x: normalise(x, False, True, 0.5),
        gradient=False,
    )


def test_gradient_takes_eps_for_zero_in_one_term() -> None:
    net = Net(parse_net(net_text(mvn(across=True, variance=True, eps=0.5), [(1, 1, 2, 3)], 1)))
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 1, 1, 2, 3))
    leaf = torch.from_numpy(x).requires_grad_()
    net.layer("l")(leaf).backward(torch.from_numpy(dy))
    y = normalise(x, True, True, 0.5)
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad, (dy - dy.mean() - y * (dy * y).mean()) / (x.std() + 0.5))


def test_constant_image_gives_zero() -> None:
    x = np.full((1, 2, 3, 3), 7.0)
    check_layer(mvn(False, True), [x], [x.shape], lambda v: np.zeros_like(v), gradient=False)


def test_rank() -> None:
    with pytest.raises(ShapeError, match="takes a bottom with 1 to 4 axes"):
        check_layer(mvn(False, True), [(1, 2, 3, 4, 5)], [(1, 2, 3, 4, 5)])
