"""Force Regularization against the pairwise sum that defines it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.errors import SolverError
from caffe_bridge.net import LearnableBlob
from caffe_bridge.schema import Record, parse_text
from caffe_bridge.solver import force_gradient
from caffe_bridge.solver.force import DECAY_TYPES, DIRECTIONS, POWERS, TAU, add_force
from tests.solver.tiny import scripted, solver, weights

Array = np.ndarray
#: float32 sums over ten rows, relative to the largest entry.
CLOSE = 2e-5


def pair_force(weight: Array, kind: str) -> Array:
    """Gradient of the attraction: every pair pulls its two filters along the tangent."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    norms = np.sqrt((rows**2).sum(1))
    result = np.zeros_like(rows)
    for i, j in itertools.permutations(range(len(rows)), 2):
        if norms[i] <= TAU or norms[j] <= TAU:
            continue
        mine, other = rows[i] / norms[i], rows[j] / norms[j]
        pull = other - mine
        distance = np.sqrt((pull**2).sum())
        if kind != "Degradation":
            if distance <= TAU:
                continue
            pull = pull / distance ** {"Constant": 1, "Linear": 2, "Gravity": 3}[kind]
        result[i] -= norms[i] * (pull - (pull @ mine) * mine)
    return result.reshape(weight.shape)


def matrix(name: str) -> Array:
    rng = np.random.default_rng(11)
    w = rng.standard_normal((10, 6))
    if name == "twins":
        w[3], w[4], w[5] = w[1], 2.5 * w[1], -w[1]
    elif name == "degenerate":
        w[2], w[6] = 0.0, 2e-5 * w[6]
        w[7] = w[0] + 1e-6
    elif name == "filters":
        w = rng.standard_normal((8, 3, 3, 2))
    elif name == "alone":
        w = w[:1]
    return w.astype(np.float32)


MATRICES = ("plain", "twins", "degenerate", "filters", "alone")


def close(got: Array, want: Array) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE * max(1.0, np.abs(want).max()))


def gradient(weight: Array, kind: str, groups: int = 1) -> Array:
    return force_gradient(torch.from_numpy(weight), kind, groups).numpy()


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("kind", POWERS)
def test_closed_form_is_the_sum_over_pairs(kind: str, name: str) -> None:
    close(gradient(matrix(name), kind), pair_force(matrix(name), kind))


@pytest.mark.parametrize("kind", POWERS)
def test_groups_do_not_interact(kind: str) -> None:
    weight = matrix("filters")
    halves = [pair_force(part, kind) for part in (weight[:4], weight[4:])]
    close(gradient(weight, kind, 2), np.concatenate(halves))
    assert np.abs(gradient(weight, kind, 2) - gradient(weight, kind)).max() > 0.1
    assert np.abs(gradient(weight, kind, len(weight))).max() < 1e-12


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("kind", POWERS)
def test_force_is_tangential(kind: str, name: str) -> None:
    """Orthogonal to each filter, so a step of size h changes its norm by O(h^2) only."""
    weight = matrix(name).astype(np.float64)
    force = force_gradient(torch.from_numpy(weight), kind).numpy()
    w, f = weight.reshape(len(weight), -1), force.reshape(len(weight), -1)
    scale = np.linalg.norm(w, axis=1) * np.linalg.norm(f, axis=1)
    assert np.all(np.abs((w * f).sum(1)) <= 1e-9 * (1 + scale))
    growth = [np.linalg.norm(w - h * f, axis=1) - np.linalg.norm(w, axis=1) for h in (1e-4, 2e-4)]
    assert np.all(growth[0] >= -1e-9)
    moved = growth[0] > 1e-9
    np.testing.assert_allclose(growth[1][moved] / growth[0][moved], 4.0, rtol=2e-2)


@pytest.mark.parametrize("kind", POWERS)
def test_two_filters_approach(kind: str) -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    moved = weight - 0.1 * force_gradient(weight, kind)
    cosine = torch.nn.functional.cosine_similarity(moved[:1], moved[1:])
    assert float(cosine) > 0.05


def test_unknown_type() -> None:
    with pytest.raises(SolverError, match="'Magnet' is not known"):
        force_gradient(torch.ones(2, 2), "Magnet")


def blob_of(weight: Array, force_mult: float = 1.0, group: int = 1) -> LearnableBlob:
    value = torch.nn.Parameter(torch.from_numpy(weight))
    return LearnableBlob("l", 0, "", value, "weight", group, 1.0, 1.0, force_mult)


def forced(text: str, blob: LearnableBlob, given: Array, decay: float = 0.02) -> Array:
    made = torch.from_numpy(given.copy())
    add_force(parse_text(text, "SolverParameter"), blob, made, decay)
    return made.numpy()


@pytest.mark.parametrize("decay", [0.02, -0.02])
@pytest.mark.parametrize("strength", DECAY_TYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", POWERS)
def test_direction_and_strength(kind: str, direction: str, strength: str, decay: float) -> None:
    weight = matrix("twins")
    given = np.random.default_rng(5).standard_normal(weight.shape).astype(np.float32)
    force = pair_force(weight, kind)
    if direction == "same":
        force = np.where(given * force < 0, 0.0, force)
    local = 0.5 * decay
    if strength == "adaptive":
        local *= float(np.linalg.norm(given) / np.linalg.norm(force))
    text = f"force_type: '{kind}' force_direction: '{direction}' force_decay_type: '{strength}'"
    got = forced(text, blob_of(weight, force_mult=0.5), given, decay)
    close(got, given + local * force)
    assert np.abs(got - given).max() > 1e-4


@pytest.mark.parametrize("kind", POWERS)
@pytest.mark.parametrize("count", [1, 3, 7])
def test_adaptive_without_force_changes_nothing(count: int, kind: str) -> None:
    """Equal filters feel no force; rounding must not be blown up to the gradient's size."""
    weight = np.repeat(matrix("filters")[:1], count, axis=0)
    given = np.ones_like(weight)
    got = forced(f"force_type: '{kind}' force_decay_type: 'adaptive'", blob_of(weight), given)
    np.testing.assert_array_equal(got, given)


@pytest.mark.parametrize(
    "blob",
    [blob_of(matrix("plain"), force_mult=0.0), blob_of(matrix("plain")[0])],
    ids=["force_mult", "one-axis"],
)
def test_blobs_without_force(blob: LearnableBlob) -> None:
    given = np.ones(tuple(blob.value.shape), np.float32)
    np.testing.assert_array_equal(forced("", blob, given), given)


@pytest.mark.parametrize(("flag", "groups"), [("true", 2), ("false", 1)])
def test_force_groups_follows_the_convolution(flag: str, groups: int) -> None:
    weight = matrix("filters")
    got = forced(f"force_groups: {flag}", blob_of(weight, group=2), np.zeros_like(weight), 1.0)
    close(got, gradient(weight, "Degradation", groups))


def similarity(weight: Array) -> float:
    unit = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    return float((unit @ unit.T).mean())


@pytest.mark.parametrize("sign", [1, -1])
def test_training_attracts_or_repels(tmp_path: Path, sign: int) -> None:
    trained = solver(tmp_path, f"force_decay: {sign * 0.05}")
    scripted(trained, lambda _i: [np.zeros(tuple(b.value.shape)) for b in trained.net.learnable])
    start = weights(trained)
    trained.step(10)
    end = weights(trained)
    assert sign * (similarity(end[0]) - similarity(start[0])) > 0.01
    for untouched in (1, 2, 3):
        np.testing.assert_array_equal(end[untouched], start[untouched])


def test_force_sees_decay_and_enters_momentum(tmp_path: Path) -> None:
    """Order of SGDSolver::ApplyUpdate: clip, normalise, decay, force, update."""
    text = (
        "force_decay: 0.03 force_direction: 'same' force_decay_type: 'adaptive' momentum: 0.9 "
        "weight_decay: 0.2 iter_size: 2 clip_gradients: 1"
    )
    trained = solver(tmp_path, text)
    ones = [np.ones(tuple(b.value.shape)) for b in trained.net.learnable]
    scripted(trained, lambda _i: ones)
    want, history = weights(trained)[0].astype(np.float64), 0.0
    raw = ones[0] / np.sqrt(sum(o.size for o in ones)) / 2
    for _ in range(3):
        g = raw + 0.2 * want
        force = pair_force(want, "Degradation")
        force = np.where(g * force < 0, 0.0, force)
        g = g + 0.03 * np.linalg.norm(g) / np.linalg.norm(force) * force
        history = 0.9 * history + 0.1 * g
        want = want - history
    trained.step(3)
    np.testing.assert_allclose(weights(trained)[0], want, rtol=1e-4, atol=1e-5)


def test_force_iter_switches_off_for_good(tmp_path: Path) -> None:
    with_force = solver(tmp_path, "force_decay: 0.05 force_iter: 2")
    without = solver(tmp_path)
    never = solver(tmp_path, "force_decay: 0.05 force_iter: 0")
    never.step(2)
    without.step(2)
    np.testing.assert_array_equal(weights(never)[0], weights(without)[0])
    with_force.step(2)
    assert np.abs(weights(with_force)[0] - weights(without)[0]).max() > 1e-3
    for blob, value in zip(with_force.net.learnable, weights(without), strict=True):
        blob.value.data.copy_(torch.from_numpy(value))
    with_force.step(3)
    without.step(3)
    assert with_force.iteration == 5
    np.testing.assert_array_equal(weights(with_force)[0], weights(without)[0])


@pytest.mark.parametrize("field", ["force_type", "force_decay_type", "force_direction"])
def test_unknown_settings(tmp_path: Path, field: str) -> None:
    with pytest.raises(SolverError, match=f"{field} 'None' is not known"):
        solver(tmp_path, f"force_decay: 0.1 {field}: 'None'")
    unused: Record = solver(tmp_path, f"force_decay: 0 {field}: 'None'").param
    assert getattr(unused, field) == "None"
