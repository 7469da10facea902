"""The guard against layers whose filters have become parallel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.solver.collapse import first_component
from tests.solver.tiny import solver


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.1])
def test_the_share_of_the_first_component(spread: float) -> None:
    rng = np.random.default_rng(0)
    rows = np.outer(rng.standard_normal(6), rng.standard_normal(9))
    rows += spread * rng.standard_normal((6, 9))
    s = np.linalg.svd(rows, compute_uv=False) ** 2
    share = float(first_component(torch.from_numpy(rows)[None])[0])
    assert share == pytest.approx(s[0] / s.sum(), abs=1e-6)


def test_it_never_overestimates() -> None:
    rows = np.random.default_rng(1).standard_normal((3, 8, 12))
    s = np.linalg.svd(rows, compute_uv=False) ** 2
    assert (first_component(torch.from_numpy(rows)).numpy() <= s[:, 0] / s.sum(1) + 1e-9).all()
    assert not first_component(torch.zeros(1, 3, 4)).any()


def test_opposite_filters_are_parallel() -> None:
    row = torch.randn(1, 1, 5, generator=torch.Generator().manual_seed(0))
    assert float(first_component(torch.cat([row, -row], 1))[0]) == pytest.approx(1)


def test_a_collapsed_layer_is_reported_once(tmp_path: Path) -> None:
    lines: list[str] = []
    made = solver(tmp_path, "force_decay: 1e-6 display: 1", lines.append)
    made.step(2)
    assert not [line for line in lines if "parallel" in line]
    weight = made.net.learnable[0].value
    with torch.no_grad():
        weight.copy_(weight[:1].expand_as(weight) + 1e-3 * torch.rand(weight.shape))
    made.step(3)
    found = [line for line in lines if "parallel" in line]
    assert len(found) == 1
    assert "the 4 filters of layer 'ip1'" in found[0] and "rank at 0.95 is 1" in found[0]


def test_without_a_force_nothing_is_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    made = solver(tmp_path, "display: 1", lines.append)
    with torch.no_grad():
        made.net.learnable[0].value.fill_(1)
    made.step(1)
    assert not [line for line in lines if "parallel" in line]


def test_a_strong_force_collapses_the_layer(tmp_path: Path) -> None:
    lines: list[str] = []
    made = solver(tmp_path, "force_decay: 0.5 base_lr: 0.05 display: 20", lines.append)
    made.step(200)
    assert [line for line in lines if "have become parallel" in line]
