import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text

MEAN = np.array([0.5, -1.0, 2.0])
VARIANCE = np.array([1.0, 4.0, 0.25])
STORED = [MEAN * 4, VARIANCE * 4, np.array([4.0])]


def channelwise(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *[1] * (x.ndim - 2))


def normalise(x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    axes = tuple(a for a in range(x.ndim) if a != 1)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 3), (2, 3, 5), (2, 3, 2, 2, 3)])
def test_stored_statistics(shape: tuple[int, ...]) -> None:
    check_layer(
        'type: "BatchNorm"',
        [shape],
        [shape],
        lambda x, m, v, w: (x - channelwise(m / w, x)) / np.sqrt(channelwise(v / w, x) + 1e-5),
        blobs=STORED,
        in_place=True,
    )


def test_a_vector_is_one_channel() -> None:
    stored = [np.array([6.0]), np.array([8.0]), np.array([2.0])]
    check_layer(
        'type: "BatchNorm" batch_norm_param { eps: 0.5 }',
        [(5,)],
        [(5,)],
        lambda x, m, v, w: (x - 3) / np.sqrt(4.5),
        blobs=stored,
    )


def test_zero_weight_counts_as_zero_statistics() -> None:
    check_layer(
        'type: "BatchNorm" batch_norm_param { eps: 0.25 }',
        [(2, 3, 2)],
        [(2, 3, 2)],
        lambda x, *_: x / 0.5,
        blobs=[MEAN, VARIANCE, np.zeros(1)],
    )


@pytest.mark.parametrize("shape", [(3, 3, 4, 2), (5, 3), (2, 3, 2, 2, 2)])
def test_batch_statistics_in_test_phase(shape: tuple[int, ...]) -> None:
    check_layer(
        'type: "BatchNorm" batch_norm_param { use_global_stats: false }',
        [shape],
        [shape],
        lambda x, *_: normalise(x),
        blobs=STORED,
    )


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("given", [None, True, False])
def test_which_statistics(phase: str, given: bool | None) -> None:
    parameter = "" if given is None else f"use_global_stats: {str(given).lower()}"
    text = f'type: "BatchNorm" batch_norm_param {{ {parameter} }}'
    net = Net(parse_net(net_text(text, [(4, 3, 2)], 1), phase))
    stored = given if given is not None else phase == "TEST"
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    y = net.layer("l")(x)
    want = x.numpy() / np.sqrt(1e-5) if stored else normalise(x.numpy().astype(np.float64))
    np.testing.assert_allclose(y.detach(), want, rtol=1e-4, atol=1e-5)
    assert bool(net.layer("l").blobs[2].detach() == 0) == stored


def test_running_sums() -> None:
    text = 'type: "BatchNorm" batch_norm_param { moving_average_fraction: 0.9 }'
    net = Net(parse_net(net_text(text, [(4, 2, 3)], 1), "TRAIN"))
    rng = np.random.default_rng(0)
    mean, variance, weight = np.zeros(2), np.zeros(2), 0.0
    for _ in range(3):
        x = rng.standard_normal((4, 2, 3))
        net.layer("l")(torch.from_numpy(x.astype(np.float32)))
        mean = 0.9 * mean + x.mean((0, 2))
        variance = 0.9 * variance + x.var((0, 2)) * 12 / 11
        weight = 0.9 * weight + 1
    blobs = [blob.detach().numpy() for blob in net.layer("l").blobs]
    np.testing.assert_allclose(blobs[0], mean, rtol=1e-5)
    np.testing.assert_allclose(blobs[1], variance, rtol=1e-5)
    np.testing.assert_allclose(blobs[2], [weight], rtol=1e-6)


def test_one_value_per_channel_gives_zero() -> None:
    net = Net(parse_net(net_text('type: "BatchNorm"', [(1, 2)], 1), "TRAIN"))
    x = torch.tensor([[3.0, -4.0]], requires_grad=True)
    y = net.layer("l")(x)
    y.sum().backward()
    assert y.tolist() == [[0, 0]]
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0]]
    assert [b.tolist() for b in net.layer("l").blobs] == [[3, -4], [0, 0], [1]]


def test_blobs_are_never_trained() -> None:
    text = 'type: "BatchNorm" param { lr_mult: 1 }'
    net = Net(parse_net(net_text(text, [(2, 3, 2)], 1), "TRAIN"))
    assert [(b.role, b.lr_mult, b.value.requires_grad) for b in net.learnable] == [
        ("statistic", 0.0, False)
    ] * 3


def test_errors() -> None:
    with pytest.raises(ShapeError, match="at least one axis"):
        check_layer('type: "BatchNorm"', [()], [()])
    net = Net(parse_net(net_text('type: "BatchNorm"', [(2, 3)], 1)))
    with pytest.raises(ShapeError, match=r"was built for 3 channels, bottom shape is \(2, 4\)"):
        net.layer("l")(torch.zeros(2, 4))
