from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError, WeightError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.schema import Record, make_blob, write_binary
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


SCALE, BIAS = np.array([2.0, -0.5, 1.0]), np.array([0.25, 1.0, -1.0])


@pytest.mark.parametrize("text", ["scale_bias: true", "scale_filler { value: 2 }"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 3)])
@pytest.mark.parametrize("stored", [True, False])
def test_nvcaffe(text: str, shape: tuple[int, ...], stored: bool) -> None:
    def reference(x, m, v, w, s, b):
        unit = (x - channelwise(m, x)) / np.sqrt(channelwise(v, x) + 1e-5)
        unit = unit if stored else normalise(x)
        return unit * channelwise(s, x) + channelwise(b, x)

    check_layer(
        f'type: "BatchNorm" batch_norm_param {{ {text} eps: 1e-7 '
        f"use_global_stats: {str(stored).lower()} }}",
        [shape],
        [shape],
        reference,
        blobs=[MEAN, VARIANCE, np.ones(1), SCALE, BIAS],
        in_place=True,
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_intel(bias: bool, relu: bool) -> None:
    def reference(x, m, v, w, s, b=np.zeros(3)):  # noqa: B008
        unit = (x - channelwise(m / w, x)) / np.sqrt(channelwise(v / w, x) + 1e-5)
        y = unit * channelwise(s, x) + channelwise(b, x)
        return np.maximum(y, 0) if relu else y

    check_layer(
        'type: "BatchNorm" batch_norm_param { use_weight_bias: true '
        f"bias_term: {str(bias).lower()} relu: {str(relu).lower()} }}",
        [(2, 3, 4, 5)],
        [(2, 3, 4, 5)],
        reference,
        blobs=[*STORED, SCALE, BIAS][: 5 if bias else 4],
    )


@pytest.mark.parametrize("text", ["scale_bias: true", "use_weight_bias: true"])
def test_scale_and_bias_of_a_vector_and_at_the_start(text: str) -> None:
    layer = f'type: "BatchNorm" batch_norm_param {{ {text} }}'
    stored = [np.array([6.0]), np.array([8.0]), np.array([1.0]), np.array([3.0]), np.array([4.0])]
    check_layer(
        layer, [(5,)], [(5,)], lambda x, *_: 3 * (x - 6) / np.sqrt(8 + 1e-5) + 4, blobs=stored
    )
    net = Net(parse_net(net_text(layer, [(2, 3)], 1), "TRAIN"))
    assert [b.role for b in net.learnable] == ["statistic"] * 3 + ["weight", "bias"]
    weight = 1 if "scale_bias" in text else 0
    assert [float(b.detach().sum()) for b in net.layer("l").blobs] == [0, 0, weight, 3, 0]


def test_nvcaffe_keeps_means() -> None:
    text = 'type: "BatchNorm" batch_norm_param { scale_bias: true moving_average_fraction: 0.75 }'
    net = Net(parse_net(net_text(text, [(4, 2, 3)], 1), "TRAIN"))
    rng = np.random.default_rng(0)
    mean = variance = np.zeros(2)
    for step in range(4):
        x = rng.standard_normal((4, 2, 3))
        net.layer("l")(torch.from_numpy(x.astype(np.float32)))
        keep = 0.75 if step > 1 else 0.0
        mean = keep * mean + (1 - keep) * x.mean((0, 2))
        variance = keep * variance + (1 - keep) * x.var((0, 2))
    blobs = [blob.detach().numpy() for blob in net.layer("l").blobs]
    np.testing.assert_allclose(blobs[0], mean, rtol=1e-5)
    np.testing.assert_allclose(blobs[1], variance, rtol=1e-5)
    assert blobs[2].item() == 1


@pytest.mark.parametrize(("weight", "counts"), [(0.0, 1.0), (2.0, 2.0)])
def test_a_stored_weight_of_zero_is_one_in_nvcaffe(
    tmp_path: Path, weight: float, counts: float
) -> None:
    record = Record("NetParameter")
    layer = record.add("layer", name="l", type="BatchNorm")
    values = [MEAN, VARIANCE, np.array([weight]), SCALE, BIAS]
    layer.blobs = [make_blob(v.astype(np.float32)) for v in values]
    file = write_binary(record, tmp_path / "nv.caffemodel")
    text = 'type: "BatchNorm" batch_norm_param { scale_bias: true }'
    net = Net(parse_net(net_text(text, [(2, 3, 4)], 1)))
    net.load(file)
    assert net.layer("l").blobs[2].item() == counts
    x = np.ones((2, 3, 4))
    unit = (x - channelwise(MEAN / counts, x)) / np.sqrt(channelwise(VARIANCE / counts, x) + 1e-5)
    got = net.layer("l")(torch.ones(2, 3, 4)).detach()
    want = unit * channelwise(SCALE, x) + channelwise(BIAS, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    plain = Net(parse_net(net_text('type: "BatchNorm"', [(2, 3, 4)], 1)))
    with pytest.raises(WeightError, match="stores 5 blobs for it, the net has 3"):
        plain.load(file)
