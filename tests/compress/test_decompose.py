from __future__ import annotations

import numpy as np
import pytest

from caffe_bridge.compress import DECOMPOSITIONS, decomposition
from caffe_bridge.errors import PlanError
from tests.compress.checks import CONV, FC, GAUSS, check_decomposition, net_text

RNG = np.random.default_rng(3)

CONVS = {
    "plain": ("num_output: 6 kernel_size: 3", (2, 4, 7, 6)),
    "few_inputs": ("num_output: 12 kernel_size: 2", (2, 1, 5, 5)),
    "one_by_one": ("num_output: 6 kernel_size: 1", (2, 4, 3, 3)),
    "no_bias": ("num_output: 6 kernel_size: 3 bias_term: false", (1, 4, 5, 5)),
    "stride_pad": ("num_output: 6 kernel_size: 3 stride: 2 pad: 1", (2, 4, 7, 6)),
    "dilation": ("num_output: 6 kernel_size: 3 dilation: 2 pad: 2", (1, 3, 7, 7)),
    "rectangular": (
        "num_output: 5 kernel_h: 3 kernel_w: 1 pad_h: 1 pad_w: 0 stride_h: 1 stride_w: 2",
        (2, 3, 5, 6),
    ),
    "per_axis": ("num_output: 5 kernel_size: 1 kernel_size: 3 pad: 0 pad: 1", (1, 3, 4, 5)),
    "group": ("num_output: 8 kernel_size: 3 group: 2 pad: 1", (2, 4, 5, 5)),
    "group_everything": (
        "num_output: 9 kernel_size: 3 group: 3 stride: 2 pad: 2 dilation: 2",
        (1, 6, 9, 9),
    ),
    "group_few_inputs": ("num_output: 12 kernel_size: 1 group: 2", (1, 4, 3, 3)),
    "one_axis": ("num_output: 6 kernel_size: 3 stride: 2", (2, 4, 9)),
    "three_axes": ("num_output: 4 kernel_size: 2 pad: 1", (1, 3, 3, 4, 3)),
}
FCS = {
    "plain": ("num_output: 5", (3, 8)),
    "few_inputs": ("num_output: 7", (3, 4)),
    "flattening": ("num_output: 5", (2, 3, 2, 2)),
    "no_bias": ("num_output: 5 bias_term: false", (2, 6)),
    "transpose": ("num_output: 5 transpose: true", (3, 8)),
    "axis": ("num_output: 4 axis: 2", (2, 3, 6)),
    "axis_from_the_end": ("num_output: 4 axis: -2", (2, 3, 6)),
    "transpose_axis": ("num_output: 4 axis: -1 transpose: true", (2, 3, 6)),
}


@pytest.mark.parametrize("method", ["pca", "svd", "kmeans"])
@pytest.mark.parametrize("case", CONVS)
def test_convolution(case: str, method: str) -> None:
    param, shape = CONVS[case]
    check_decomposition(net_text(shape, CONV.format(f"{param} {GAUSS}")), shape, method)


@pytest.mark.parametrize("method", ["pca", "svd"])
@pytest.mark.parametrize("case", FCS)
def test_inner_product(case: str, method: str) -> None:
    param, shape = FCS[case]
    check_decomposition(
        net_text(shape, FC.format(f"{param} {GAUSS}")), shape, method, positions=None
    )


@pytest.mark.parametrize("balance", ["first", "both", "second"])
def test_balance(balance: str) -> None:
    shape = (1, 3, 5, 5)
    text = net_text(shape, CONV.format(f"num_output: 6 kernel_size: 3 {GAUSS}"))
    check_decomposition(text, shape, "svd", {"balance": balance})


@pytest.mark.parametrize("axis", [2, -3])
def test_convolution_axis(axis: int) -> None:
    shape = (2, 2, 3, 5, 5)
    text = net_text(shape, CONV.format(f"num_output: 4 kernel_size: 3 axis: {axis} {GAUSS}"))
    check_decomposition(text, shape, onnx=False, positions=None)


def test_two_bottoms() -> None:
    shape = (2, 3, 5, 5)
    conv = (
        'layer { name: "c" type: "Convolution" bottom: "x" bottom: "r" top: "a" top: "b" '
        f"convolution_param {{ num_output: 4 kernel_size: 3 {GAUSS} }} }}"
    )
    relu = 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" }'
    check_decomposition(net_text(shape, relu, conv), shape)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_pca_is_an_orthonormal_combination_of_the_best_subspace(shape: tuple[int, int]) -> None:
    weight = RNG.standard_normal(shape)
    values = np.linalg.svd(weight, compute_uv=False)
    made = decomposition("pca")
    for rank in range(1, min(shape) + 1):
        basis, combination = made.factor(weight, rank)
        np.testing.assert_allclose(combination.T @ combination, np.eye(rank), atol=1e-10)
        np.testing.assert_allclose(basis, combination.T @ weight, atol=1e-10)
        np.testing.assert_allclose(np.linalg.norm(basis, axis=1), values[:rank], rtol=1e-8)
    np.testing.assert_allclose(made.spectrum(weight)[0], values**2, rtol=1e-8)


def test_pca_of_deficient_weights() -> None:
    weight = np.outer(RNG.standard_normal(9), RNG.standard_normal(4))
    basis, combination = decomposition("pca").factor(weight, 3)
    np.testing.assert_allclose(combination.T @ combination, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(combination @ basis, weight, atol=1e-10)


def test_svd_places_the_scale() -> None:
    weight = RNG.standard_normal((6, 10))
    values = np.linalg.svd(weight, compute_uv=False)[:4]
    for balance, first in (("first", values), ("both", np.sqrt(values)), ("second", 1.0)):
        basis, combination = decomposition("svd", {"balance": balance}).factor(weight, 4)
        np.testing.assert_allclose(np.linalg.norm(basis, axis=1), first, rtol=1e-10)
        np.testing.assert_allclose(np.linalg.norm(combination, axis=0), values / first, rtol=1e-10)


def test_svd_first_equals_pca() -> None:
    weight = RNG.standard_normal((6, 10))
    pca, svd = decomposition("pca"), decomposition("svd", {"balance": "first"})
    for one, other in zip(pca.factor(weight, 4), svd.factor(weight, 4), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("method", ["pca", "svd"])
def test_sign_of_a_component(method: str) -> None:
    combination = decomposition(method).factor(RNG.standard_normal((7, 9)), 5)[1]
    assert (combination[np.abs(combination).argmax(axis=0), np.arange(5)] > 0).all()


def test_kmeans_finds_clusters() -> None:
    centres = RNG.standard_normal((3, 12)) * 10
    weight = centres[[0, 1, 2, 1, 0, 2, 2, 1]] + RNG.standard_normal((8, 12)) * 0.01
    basis, combination = decomposition("kmeans").factor(weight, 3)
    assert set(np.unique(combination)) == {0.0, 1.0}
    assert (combination.sum(axis=1) == 1).all()
    assert np.abs(combination @ basis - weight).max() < 0.05
    again = decomposition("kmeans").factor(weight, 3)
    np.testing.assert_array_equal(again[0], basis)


def test_kmeans_of_equal_filters() -> None:
    weight = np.repeat(RNG.standard_normal((2, 5)), 3, axis=0)
    made = decomposition("kmeans")
    assert made.max_rank(weight) == 2
    basis, combination = made.factor(weight, 2)
    np.testing.assert_array_equal(combination @ basis, weight)


def test_kmeans_has_no_spectrum() -> None:
    with pytest.raises(PlanError, match="kmeans has no spectrum"):
        decomposition("kmeans").spectrum(RNG.standard_normal((4, 4)))


@pytest.mark.parametrize("method", ["pca", "svd", "kmeans"])
def test_zero_weights(method: str) -> None:
    made = decomposition(method)
    weight = np.zeros((4, 6))
    assert made.predicted_error(weight, 1) == 0.0
    basis, combination = made.factor(weight, 1)
    assert np.abs(combination @ basis).max() == 0.0


def test_registry() -> None:
    assert DECOMPOSITIONS.names() == [
        "cp",
        "kmeans",
        "pca",
        "spatial",
        "spatial_h",
        "svd",
        "tucker",
        "weight_svd",
    ]
    with pytest.raises(PlanError, match=r"unknown decomposition 'pcaa'. Did you mean pca\?"):
        decomposition("pcaa")
    with pytest.raises(PlanError, match="svd has no option 'scale'; its options: balance"):
        decomposition("svd", {"scale": 1})
    with pytest.raises(PlanError, match="balance of svd is 'left'; give first, both, second"):
        decomposition("svd", {"balance": "left"})
