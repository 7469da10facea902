"""Forces of several small weights in one go equal each weight's own force."""

from __future__ import annotations

import pytest
import torch

from caffe_bridge.solver.force import POWERS, force_gradient
from caffe_bridge.solver.force_small import SmallForces, is_small


def _weights() -> dict[int, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    made = {
        0: torch.randn(20, 3, 5, 5, generator=random),
        2: torch.randn(48, 8, 3, 3, generator=random).to(memory_format=torch.channels_last),
        5: torch.randn(10, 64, generator=random) * 0.1,
    }
    return {index: weight.contiguous() if index != 2 else weight for index, weight in made.items()}


def _grads(weights: dict[int, torch.Tensor]) -> list[torch.Tensor]:
    made = [torch.zeros(1)] * 6
    for index, weight in weights.items():
        made[index] = torch.full_like(weight, 0.25)
    return made


@pytest.mark.parametrize("force_type", POWERS)
def test_all_weights_at_once(force_type: str) -> None:
    weights, groups = _weights(), {0: 1, 2: 4, 5: 1}
    assert all(is_small(weight, groups[i], 1) for i, weight in weights.items())
    small = SmallForces(weights, groups, POWERS[force_type])
    for _ in range(2):  # the second pass sees changed weights in the same place
        grads = _grads(weights)
        assert small.add(grads, {0: 1.0, 2: 0.5, 5: 2.0}) == {0, 2, 5}
        for index, strength in ((0, 1.0), (2, 0.5), (5, 2.0)):
            wanted = force_gradient(weights[index], force_type, groups[index]) * strength
            found = grads[index] - 0.25
            assert torch.allclose(found, wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))
            weights[index].mul_(1.5).add_(0.01)


def test_near_and_empty_filters_are_left_alone() -> None:
    weights = _weights()
    weights[0][1] = weights[0][0] * 1.01
    weights[5][3] = 0
    grads = _grads(weights)
    done = SmallForces(weights, dict.fromkeys(weights, 1), 1).add(
        grads, dict.fromkeys(weights, 1.0)
    )
    assert done == {2}
    assert bool((grads[0] == 0.25).all()) and bool((grads[5] == 0.25).all())
    assert bool(torch.isfinite(grads[2]).all())
    done = SmallForces(weights, dict.fromkeys(weights, 1), 0).add(
        grads, dict.fromkeys(weights, 1.0)
    )
    assert done == {0, 2}


def test_a_gradient_in_another_layout_is_left_alone() -> None:
    weights = _weights()
    grads = _grads(weights)
    grads[2] = grads[2].contiguous()
    done = SmallForces(weights, dict.fromkeys(weights, 1), 1).add(
        grads, dict.fromkeys(weights, 1.0)
    )
    assert done == {0, 5}


def test_moved_weights_and_many_filters() -> None:
    weights = _weights()
    small = SmallForces(weights, dict.fromkeys(weights, 1), 1)
    listed = [weights.get(i, torch.zeros(1)) for i in range(6)]
    assert small.fits(listed)
    listed[5] = listed[5].clone()
    assert not small.fits(listed)
    assert not is_small(torch.zeros(128, 9), 1, 1) and is_small(torch.zeros(128, 9), 2, 1)
    assert not is_small(torch.zeros(9, 20).t(), 1, 1) and not is_small(
        torch.zeros(4, 4).double(), 1, 1
    )
    assert is_small(torch.zeros(64, 9), 1, 0) and not is_small(torch.zeros(65, 9), 1, 0)
