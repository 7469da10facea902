"""The closed form of the force against the pairwise loops in float64, at all distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_bridge.net import LearnableBlob
from caffe_bridge.schema import Record
from caffe_bridge.solver.force import POWERS, add_force, force_gradient

TAU = 1e-4


def loops(weight: np.ndarray, power: int, groups: int = 1) -> np.ndarray:
    """The reference's loops over pairs of filters."""
    w = weight.astype(np.float64).reshape(groups, weight.shape[0] // groups, -1)
    total = np.zeros_like(w)
    for rows, out in zip(w, total, strict=True):
        norms = np.linalg.norm(rows, axis=1)
        for i in range(len(rows)):
            for j in range(len(rows)):
                if i == j or min(norms[i], norms[j]) <= TAU:
                    continue
                own = rows[i] / norms[i]
                apart = own - rows[j] / norms[j]
                distance = np.linalg.norm(apart)
                if power and distance <= TAU:
                    continue
                pull = apart / distance**power
                out[i] += norms[i] * (pull - (pull @ own) * own)
    return total.reshape(weight.shape)


def filters(spread: float, shape: tuple[int, ...] = (12, 6, 3, 3), seed: int = 0) -> torch.Tensor:
    """Filters in pairs whose directions differ by about ``spread``."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((shape[0] // 2, int(np.prod(shape[1:]))))
    rows = np.repeat(base, 2, axis=0)
    rows += spread * rng.standard_normal(rows.shape)
    rows *= rng.uniform(0.1, 2, (len(rows), 1))
    return torch.from_numpy(rows.reshape(shape).astype(np.float32))


@pytest.mark.parametrize("force_type", list(POWERS))
@pytest.mark.parametrize("spread", [1.0, 0.3, 0.1, 0.03, 0.003, 3e-4, 0.0])
def test_all_distances(force_type: str, spread: float) -> None:
    weight = filters(spread)
    expected = loops(weight.numpy(), POWERS[force_type])
    got = force_gradient(weight, force_type).numpy()
    assert np.abs(got - expected).max() <= 5e-5 * np.abs(expected).max()


@pytest.mark.parametrize("force_type", list(POWERS))
def test_many_near_filters(force_type: str) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((1, 40)) + 0.05 * rng.standard_normal((30, 40))
    weight = torch.from_numpy(rows.astype(np.float32))
    expected = loops(weight.numpy(), POWERS[force_type])
    got = force_gradient(weight, force_type).numpy()
    assert np.abs(got - expected).max() <= 5e-5 * np.abs(expected).max()


@pytest.mark.parametrize("force_type", list(POWERS))
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("last", [False, True])
def test_adding_in_place(force_type: str, groups: int, last: bool) -> None:
    weight = filters(0.2)
    weight[3] = 0
    weight[4] *= 1e-6
    expected = 1.0 - 0.02 * loops(weight.numpy(), POWERS[force_type], groups)
    layout = torch.channels_last if last else torch.contiguous_format
    value = torch.nn.Parameter(weight.contiguous(memory_format=layout))
    blob = LearnableBlob("conv", 0, "", value, "weight", 2, 1.0, 1.0, 0.5)
    for grad_layout in (layout, torch.contiguous_format):
        gradient = torch.ones(weight.shape).contiguous(memory_format=grad_layout)
        settings = Record("SolverParameter", force_type=force_type, force_groups=groups > 1)
        add_force(settings, blob, gradient, -0.04)
        assert np.abs(gradient.numpy() - expected).max() <= 2e-5 * np.abs(expected).max()
        assert not (gradient[3] - 1).any() and not (gradient[4] - 1).any()
