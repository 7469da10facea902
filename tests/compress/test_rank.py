from __future__ import annotations

import doctest

import numpy as np
import pytest

from caffe_bridge.compress import (
    RANK_RULES,
    energy_of,
    rank_by_energy,
    rank_by_norm,
    rank_table,
    theoretical_speedup,
)
from caffe_bridge.compress.rank import align, energy, rank_for, tail_error
from caffe_bridge.compress.rank.evbmf import noise_variance
from caffe_bridge.errors import PlanError
from tests.compress.checks import CONV, FC, GAUSS, filled, net_text

VALUES = np.array([50.0, 30.0, 15.0, 4.0, 1.0])
# Wen et al., ICCV 2017, table 4: AlexNet layer (filters, weights of a filter, group), rank, factor.
TABLE_4 = [
    ((384, 256 * 9, 1), 184, 1.79),
    ((384, 192 * 9, 2), 201, 1.72),
    ((256, 192 * 9, 2), 146, 1.63),
    ((384, 256 * 9, 1), 124, 2.65),
    ((384, 192 * 9, 2), 106, 3.26),
    ((256, 192 * 9, 2), 129, 1.85),
]


def test_doctests() -> None:
    assert doctest.testmod(energy, extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize(
    ("ratio", "rank"), [(0.01, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.95, 3), (0.96, 4), (1.0, 5)]
)
def test_rank_by_energy(ratio: float, rank: int) -> None:
    assert rank_by_energy(VALUES, ratio) == rank
    assert energy_of(VALUES, rank) >= ratio
    assert rank == 1 or energy_of(VALUES, rank - 1) < ratio


@pytest.mark.parametrize("ratio", [0.3, 0.7, 0.9, 0.95, 0.99])
def test_norm_rule_keeps_the_square_of_the_ratio(ratio: float) -> None:
    values = np.random.default_rng(0).random(40) ** 3
    values = np.sort(values)[::-1]
    rank = rank_by_norm(values, ratio)
    assert rank == rank_by_energy(values, ratio**2)
    assert rank < rank_by_energy(values, ratio)


@pytest.mark.parametrize("rule", ["energy", "norm"])
@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, float("nan")])
def test_ratio_out_of_range(rule: str, ratio: float) -> None:
    with pytest.raises(PlanError, match="give a number above 0 and up to 1"):
        RANK_RULES.get(rule)(VALUES, ratio)


def test_zero_matrix() -> None:
    zeros = np.zeros(4)
    assert rank_by_energy(zeros, 0.95) == rank_by_norm(zeros, 0.95) == 1
    assert energy_of(zeros, 1) == 1.0
    assert tail_error([zeros], 1) == 0.0


def test_rounding_noise_is_no_energy() -> None:
    assert rank_by_energy(np.array([1.0, 1e-3, -1e-3]), 1.0) == 2
    assert energy_of(VALUES, 9) == 1.0


def test_groups_take_the_largest_rank() -> None:
    spectra = [np.array([10.0, 0.1, 0.1]), np.array([4.0, 4.0, 2.0])]
    assert rank_for(spectra, 0.95) == 6
    assert rank_for(spectra, 0.8) == 4
    assert tail_error(spectra, 4) == pytest.approx(np.sqrt(2.1 / 20.2))


@pytest.mark.parametrize(("layer", "rank", "factor"), TABLE_4)
def test_theoretical_speedup_of_table_4(
    layer: tuple[int, int, int], rank: int, factor: float
) -> None:
    filters, inputs, group = layer
    assert round(theoretical_speedup(filters, inputs, rank, group), 2) == factor


TEXT = net_text(
    (1, 4, 6, 6),
    CONV.format(f"num_output: 8 kernel_size: 3 group: 2 {GAUSS}"),
    FC.format(f"num_output: 5 {GAUSS}"),
    'layer { name: "d" type: "Convolution" bottom: "x" top: "d" '
    f"convolution_param {{ num_output: 4 kernel_size: 3 group: 4 {GAUSS} }} }}",
)


def test_rank_table() -> None:
    record, weights = filled(TEXT)
    (row,) = rank_table(record, weights, 0.8)
    halves = weights.blobs["c"][0].array().reshape(2, 4, -1).astype(np.float64)
    spectra = [np.linalg.svd(half, compute_uv=False) ** 2 for half in halves]
    each = max(rank_by_energy(s, 0.8) for s in spectra)
    kept = sum(s[:each].sum() for s in spectra) / sum(s.sum() for s in spectra)
    assert (row.layer, row.type, row.group, row.num_output, row.inputs, row.max_rank) == (
        "c", "Convolution", 2, 8, 18, 8,
    )  # fmt: skip
    assert row.rank == 2 * each
    assert row.rank_ratio == row.rank / 8
    assert row.energy == pytest.approx(kept)
    assert row.error == pytest.approx(np.sqrt(1 - kept))
    assert row.theoretical_speedup == theoretical_speedup(8, 18, row.rank, 2)


def test_rank_table_of_named_layers() -> None:
    record, weights = filled(TEXT)
    assert [r.layer for r in rank_table(record, weights, 0.9, ["f"])] == ["f"]
    assert [r.layer for r in rank_table(record, weights, 0.9, include_fc=True)] == ["c", "f"]
    norm = rank_table(record, weights, 0.9, ["f"], rule="norm", method="svd")
    assert norm[0].rank <= rank_table(record, weights, 0.9, ["f"])[0].rank


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cc", r"layers: net.prototxt has no layer 'cc'. Did you mean c\?"),
        ("d", "d cannot be decomposed: it is depthwise"),
        ("x", "x cannot be decomposed: it has no weight matrix"),
    ],
)
def test_rank_table_refusals(name: str, message: str) -> None:
    record, weights = filled(TEXT)
    with pytest.raises(PlanError, match=message):
        rank_table(record, weights, 0.9, [name])


def test_relative_error_rule() -> None:
    for bound in (0.05, 0.1, 0.3, 0.5, 0.99):
        rank = RANK_RULES.get("error")(VALUES, bound)
        assert tail_error([VALUES], rank) <= bound
        assert rank == 1 or tail_error([VALUES], rank - 1) > bound
    # 5 % of the norm is 0.25 % of the energy, not 5 %.
    assert RANK_RULES.get("error")(VALUES, 0.05) == rank_by_energy(VALUES, 0.9975)


def test_stable_rank_rule() -> None:
    stable = RANK_RULES.get("stable")
    assert stable(VALUES, 1.0) == 2
    assert stable(VALUES, 2.0) == 4
    assert stable(VALUES, 100.0) == 5
    assert stable(np.ones(7), 1.0) == 7
    assert stable(np.zeros(4), 1.0) == 1
    with pytest.raises(PlanError, match=r"ratio of the stable rank is 0.0; give a positive"):
        stable(VALUES, 0.0)


def _noisy(noise: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    signal = random.standard_normal((64, 12)) @ random.standard_normal((12, 576))
    weight = signal / np.sqrt(12) + noise * random.standard_normal((64, 576))
    return np.linalg.svd(weight, compute_uv=False) ** 2


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
def test_evbmf_recovers_the_rank(noise: float) -> None:
    rule = RANK_RULES.get("evbmf")
    assert rule(_noisy(noise), 1.0, (64, 576)) == 12
    assert rule(_noisy(noise), 1.0, (576, 64)) == 12
    variance, _ = noise_variance(_noisy(noise), (64, 576))
    assert np.sqrt(variance) == pytest.approx(noise, rel=0.2)


def test_evbmf_loses_the_rank_in_noise() -> None:
    rule = RANK_RULES.get("evbmf")
    ranks = [rule(_noisy(noise), 1.0, (64, 576)) for noise in (0.5, 2.0, 4.0, 16.0)]
    assert ranks == sorted(ranks, reverse=True)
    assert 1 <= ranks[-1] < 12


def test_evbmf_floor_and_weakening() -> None:
    rule = RANK_RULES.get("evbmf")
    assert rule(np.zeros(4), 1.0, (4, 9)) == 1
    assert [rule(_noisy(0.1), ratio, (64, 576)) for ratio in (1.0, 0.5, 0.25)] == [12, 38, 51]
    with pytest.raises(PlanError, match="evbmf needs the shape of the matrix"):
        rule(VALUES, 1.0)


@pytest.mark.parametrize(
    ("rank", "most", "group", "block", "wanted"),
    [(19, 64, 1, 16, 32), (16, 64, 1, 16, 16), (40, 192, 2, 16, 64), (61, 62, 1, 8, 62),
     ((5, 61), (16, 62), 1, 8, (8, 62)), (1, 64, 1, 16, 16)],
)  # fmt: skip
def test_alignment(rank: object, most: object, group: int, block: int, wanted: object) -> None:
    assert align(rank, most, group, block) == wanted
