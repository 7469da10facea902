"""Gradient terms against plain numpy, and as a solver adds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_bridge.errors import SolverError
from caffe_bridge.schema import Record, parse_text
from caffe_bridge.solver import Solver
from caffe_bridge.solver.rows import grouped_rows, like_weight
from caffe_bridge.solver.terms import TERMS
from caffe_bridge.solver.terms.base import truncated
from caffe_bridge.solver.terms.lasso import lasso_gradient
from caffe_bridge.solver.terms.nuclear import polar_factor

NET = """
  layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
    shape { dim: 4 dim: 4 dim: 5 dim: 5 } shape { dim: 4 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
  layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    param { %s } param { decay_mult: 0 }
    convolution_param { num_output: 6 kernel_size: 3 group: 2 weight_filler { type: "xavier" } } }
  layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
    inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def solver(settings: str = "", param: str = "force_mult: 1") -> Solver:
    text = (
        f"train_net_param {{ {NET % param} }} base_lr: 0.1 lr_policy: 'fixed' max_iter: 20 "
        f"random_seed: 3 {settings}"
    )
    return Solver(parse_text(text, "SolverParameter"))


def added(settings: str, param: str = "force_mult: 1") -> tuple[np.ndarray, np.ndarray]:
    """What the terms add to the convolution's gradient, and its weight."""
    made = solver(settings, param)
    weights = [b.value.detach() for b in made.net.learnable]
    grads = [torch.zeros_like(w) for w in weights]
    for term in made.terms:
        term.add(weights, grads, 0)
    assert not any(g.any() for g in grads[1:])
    return grads[0].numpy(), weights[0].numpy()


def matrices(weight: np.ndarray, groups: int = 2) -> np.ndarray:
    return weight.reshape(groups, weight.shape[0] // groups, -1).astype(np.float64)


def test_the_registry_knows_all_terms() -> None:
    assert TERMS.names() == [
        "force", "group_lasso", "keep_zeros", "lowrank_period", "nuclear_decay", "weight_decay",
    ]  # fmt: skip


def test_a_plain_solver_only_decays() -> None:
    assert [type(t).__name__ for t in solver().terms if type(t).__name__ != "Force"] == [
        "WeightDecay"
    ]
    gradient, _ = added("")
    assert not gradient.any()


def test_nuclear_norm_adds_u_v_of_each_group() -> None:
    gradient, weight = added("nuclear_decay: 0.2", "force_mult: 0.5")
    u, _, vh = np.linalg.svd(matrices(weight), full_matrices=False)
    assert np.allclose(matrices(gradient), 0.1 * u @ vh, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 8), (2, 8, 3), (1, 1, 1)])
def test_polar_factor(shape: tuple[int, ...]) -> None:
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
    u, _, vh = np.linalg.svd(rows.numpy(), full_matrices=False)
    assert np.allclose(polar_factor(rows).numpy(), u @ vh, atol=1e-9)


def test_polar_factor_leaves_the_null_space_alone() -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 9))
    u, _, vh = np.linalg.svd(rows, full_matrices=False)
    got = polar_factor(torch.from_numpy(rows)[None])[0].numpy()
    assert np.allclose(got, u[:, :2] @ vh[:2], atol=1e-6)
    assert not polar_factor(torch.zeros(1, 3, 4)).any()


@pytest.mark.parametrize("energy", [0.3, 0.9, 1.0])
def test_truncation_keeps_the_energy_with_least_rank(energy: float) -> None:
    rows = np.random.default_rng(2).standard_normal((2, 5, 7))
    got = truncated(torch.from_numpy(rows), energy).numpy()
    for before, after in zip(rows, got, strict=True):
        s = np.linalg.svd(before, compute_uv=False) ** 2
        rank = int(np.searchsorted(np.cumsum(s) / s.sum(), energy - 1e-12)) + 1
        assert np.linalg.matrix_rank(after, tol=1e-9) == min(rank, 5)
        assert np.isclose((after**2).sum(), s[:rank].sum())
    assert not truncated(torch.zeros(1, 3, 4), energy).any()


def test_projection_runs_every_period() -> None:
    made = solver("lowrank_period: 3 lowrank_energy: 0.6")
    ranks = []
    for _ in range(6):
        made.step(1)
        weight = matrices(made.net.learnable[0].value.detach().numpy())
        ranks.append(max(np.linalg.matrix_rank(m, tol=1e-5) for m in weight))
    assert ranks[0] == ranks[1] == ranks[3] == 3
    assert ranks[2] < 3 and ranks[5] < 3


@pytest.mark.parametrize(
    ("settings", "param", "axes", "tile"),
    [
        ("breadth_decay: 0.2", "breadth_decay_mult: 2", (2,), None),
        ("kernel_shape_decay: 0.4", "kernel_shape_decay_mult: 1", (1,), None),
        ("block_group_decay: 0.4", "block_group_lasso { xdimen: 6 ydimen: 3 }", None, (3, 6)),
        ("block_group_decay: 0.2",
         "block_group_lasso { xdimen: 2 ydimen: 1 block_decay_mult: 2 }", None, (1, 2)),
    ],
)  # fmt: skip
def test_group_lasso(
    settings: str, param: str, axes: tuple[int, ...] | None, tile: tuple[int, int] | None
) -> None:
    gradient, weight = added(settings, param)
    expected = np.zeros_like(matrices(weight))
    for group, matrix in enumerate(matrices(weight)):
        if axes:
            expected[group] = 0.4 * matrix / np.linalg.norm(matrix, axis=axes[0] - 1, keepdims=True)
            continue
        assert tile
        for i in range(0, matrix.shape[0], tile[0]):
            for j in range(0, matrix.shape[1], tile[1]):
                block = matrix[i : i + tile[0], j : j + tile[1]]
                expected[group, i : i + tile[0], j : j + tile[1]] = (
                    0.4 * block / np.linalg.norm(block)
                )
    assert np.allclose(matrices(gradient), expected, atol=1e-6)


def test_lasso_of_a_zero_group_is_zero() -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    got = lasso_gradient(weight, 1, 1, 0)
    assert not got[1].any()
    assert torch.allclose(got[[0, 2, 3]].norm(dim=1), torch.ones(3))


def test_lasso_is_off_without_a_multiplier() -> None:
    gradient, _ = added("breadth_decay: 1 kernel_shape_decay: 1 block_group_decay: 1", "lr_mult: 1")
    assert not gradient.any()


def test_row_lasso_makes_rows_vanish() -> None:
    made = solver("breadth_decay: 0.5", "lr_mult: 1 breadth_decay_mult: 1")
    before = made.net.learnable[0].value.detach().flatten(1).norm(dim=1)
    made.step(6)
    after = made.net.learnable[0].value.detach().flatten(1).norm(dim=1)
    assert (after < before - 0.1).all()


@pytest.mark.parametrize(
    ("settings", "param", "message"),
    [
        ("regularization_type: 'L3'", "", "'L3' is not known; use L2 or L1"),
        ("nuclear_decay: 1", "", "force_mult, and the net has none"),
        ("lowrank_period: -1", "", "-1 must be positive"),
        ("lowrank_period: 2 lowrank_energy: 1.5", "force_mult: 1", "lowrank_energy 1.5"),
        ("lowrank_period: 2 lowrank_energy: 0", "force_mult: 1", "lowrank_energy 0"),
        ("block_group_decay: 1", "block_group_lasso { xdimen: 5 ydimen: 1 }",
         "1 rows .ydimen. by 5 columns .xdimen. does not tile its weight of 3 rows by 18"),
    ],
)  # fmt: skip
def test_refusals(settings: str, param: str, message: str) -> None:
    with pytest.raises(SolverError, match=message):
        solver(settings, param)


@pytest.mark.parametrize("settings", ["nuclear_decay: 0.1", "breadth_decay: 1", "force_decay: 0.1"])
def test_channels_last_weights_get_the_same_terms(settings: str) -> None:
    results = []
    for last in (False, True):
        made = solver(settings, "force_mult: 1 breadth_decay_mult: 0.5")
        if last:
            blob = made.net.learnable[0].value
            blob.data = blob.data.contiguous(memory_format=torch.channels_last)
        weights = [b.value.detach() for b in made.net.learnable]
        grads = [torch.zeros_like(w) for w in weights]
        for term in made.terms:
            term.add(weights, grads, 0)
        assert grads[0].any()
        results.append(grads[0].contiguous())
    assert torch.allclose(*results, atol=1e-6)


def test_rows_and_back() -> None:
    weight = torch.arange(48.0).reshape(4, 3, 2, 2)
    for stored in (weight, weight.contiguous(memory_format=torch.channels_last)):
        rows = grouped_rows(stored, 2)
        assert rows.data_ptr() == stored.data_ptr()
        assert torch.equal(like_weight(rows, stored), weight)


def test_weight_decay_may_change_while_training() -> None:
    made = solver("weight_decay: 0", "lr_mult: 1")
    assert isinstance(made.param, Record)
    made.param.weight_decay = 0.5
    weights = [b.value.detach() for b in made.net.learnable]
    grads = [torch.zeros_like(w) for w in weights]
    for term in made.terms:
        term.add(weights, grads, 0)
    assert torch.allclose(grads[0], 0.5 * weights[0])
    assert not grads[1].any()


def test_a_blob_may_decay_in_its_own_way() -> None:
    made = solver("weight_decay: 0.1", "decay_mult: 2 regularization_type: 'L1'")
    weights = [b.value.detach() for b in made.net.learnable]
    grads = [torch.zeros_like(w) for w in weights]
    for term in made.terms:
        term.add(weights, grads, 0)
    assert torch.allclose(grads[0], 0.2 * weights[0].sign())
    assert torch.allclose(grads[2], 0.1 * weights[2])
    with pytest.raises(SolverError, match="layer conv has regularization_type 'L3'; use L2 or L1"):
        solver("", "regularization_type: 'L3'")
    with pytest.raises(SolverError, match=r"names decay_proto 'd', .* not supported"):
        solver("", "decay_proto: 'd'")
