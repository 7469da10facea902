import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.layers.lrn import BAND_CHANNELS, channel_sums
from caffe_bridge.onnx_export import export
from tests.helpers import check_layer


def across(x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    scale = np.zeros_like(x)
    for c in range(x.shape[1]):
        near = x[:, max(0, c - size // 2) : c + size // 2 + 1]
        scale[:, c] = k + alpha / size * (near**2).sum(1)
    return x * scale**-beta


def within(x: np.ndarray, size: int, alpha: float, beta: float) -> np.ndarray:
    reach = size // 2
    padded = np.pad(x**2, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    total = sum(
        padded[:, :, r : r + x.shape[2], s : s + x.shape[3]]
        for r in range(size)
        for s in range(size)
    )
    return x * (1 + alpha / size**2 * total) ** -beta


def text(size: int, alpha: float, beta: float, k: float, region: str) -> str:
    return (
        f'type: "LRN" lrn_param {{ local_size: {size} alpha: {alpha} beta: {beta} k: {k} '
        f"norm_region: {region} }}"
    )


@pytest.mark.parametrize(
    ("size", "alpha", "beta", "k"),
    [(5, 1e-4, 0.75, 1.0), (3, 0.5, 0.75, 2.0), (5, 2.0, 0.5, 1.5), (9, 1.0, 1.0, 0.5)],
)
@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (2, 1, 2, 2), (3, 7), (2, 5, 3)])
def test_across_channels(
    size: int, alpha: float, beta: float, k: float, shape: tuple[int, ...]
) -> None:
    check_layer(
        text(size, alpha, beta, k, "ACROSS_CHANNELS"),
        [shape],
        [shape],
        lambda x: across(x, size, alpha, beta, k),
    )


@pytest.mark.parametrize(("size", "beta"), [(3, 0.75), (5, 0.5), (5, 1.2)])
def test_within_channel_ignores_k(size: int, beta: float) -> None:
    check_layer(
        text(size, 0.7, beta, 3.0, "WITHIN_CHANNEL"),
        [(2, 2, 4, 3)],
        [(2, 2, 4, 3)],
        lambda x: within(x, size, 0.7, beta),
    )


def test_defaults() -> None:
    check_layer('type: "LRN"', [(2, 6, 2, 2)], [(2, 6, 2, 2)], lambda x: across(x, 5, 1, 0.75, 1))


def test_value_is_exact_to_single_precision() -> None:
    x = (np.random.default_rng(3).standard_normal((2, 32, 4, 4)) * 50).astype(np.float32)
    net = check_layer(text(5, 1e-4, 0.75, 1, "ACROSS_CHANNELS"), [x], [x.shape], gradient=False)
    got = net.values["out0"].numpy()
    want = across(x.astype(np.float64), 5, 1e-4, 0.75, 1)
    assert np.abs(got - want).max() / np.abs(want).max() < 1e-6


def operators(channels: int, beta: float) -> list[str]:
    shape = (1, channels, 2, 2)
    net = check_layer(text(5, 1.0, beta, 1.0, "ACROSS_CHANNELS"), [shape], [shape], gradient=False)
    return [node.op_type for node in export(net).graph.node]


def test_onnx_form() -> None:
    assert operators(8, 0.75) == ["Mul", "Conv", "Sqrt", "Sqrt", "Mul", "Div"]
    assert operators(8, 0.5) == ["Mul", "Conv", "Pow", "Div"]
    assert operators(BAND_CHANNELS + 1, 0.75) == ["LRN"]


def test_channel_sums_leave_the_source() -> None:
    x = torch.arange(4.0).reshape(1, 4, 1)
    assert channel_sums(x, 1).flatten().tolist() == [1, 3, 6, 5]
    assert channel_sums(x, 9).flatten().tolist() == [6, 6, 6, 6]
    assert x.flatten().tolist() == [0, 1, 2, 3]


def test_errors() -> None:
    with pytest.raises(ShapeError, match="local_size 4 must be odd"):
        check_layer(text(4, 1, 1, 1, "ACROSS_CHANNELS"), [(1, 2, 2, 2)], [(1, 2, 2, 2)])
    with pytest.raises(ShapeError, match=r"WITHIN_CHANNEL takes a bottom with 4 axes.*\(1, 2, 2\)"):
        check_layer(text(3, 1, 1, 1, "WITHIN_CHANNEL"), [(1, 2, 2)], [(1, 2, 2)])
    with pytest.raises(ShapeError, match="takes a bottom with at least 2 axes"):
        check_layer(text(3, 1, 1, 1, "ACROSS_CHANNELS"), [(2,)], [(2,)])
