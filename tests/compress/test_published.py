"""The published ranks of ResNet-20 from spectra made for them, through files and all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.bench import net_cost
from caffe_bridge.compress import decompose_net, make_plan, rank_table
from caffe_bridge.net import Net

RECIPE = Path(__file__).parents[2] / "solvers" / "cifar10_resnet20"
FACTS = json.loads((RECIPE / "experiment.json").read_text())
ENERGY = 0.95
#: What the first r eigenvalues hold, a little above the ratio, as float32 weights blur it.
HELD = 0.952


def spectrum(count: int, rank: int) -> np.ndarray:
    """Eigenvalues of which exactly the first ``rank`` are needed for the ratio."""
    head = np.linspace(1.05, 0.95, rank)
    tail = np.linspace(1.05, 0.95, count - rank)
    return np.concatenate([HELD * head / head.sum(), (1 - HELD) * tail / tail.sum()])


def weight(shape: tuple[int, ...], rank: int, random: np.random.Generator) -> np.ndarray:
    """A weight with that spectrum, its singular vectors drawn at random."""
    rows, columns = shape[0], int(np.prod(shape[1:]))
    left, _ = np.linalg.qr(random.standard_normal((rows, rows)))
    right, _ = np.linalg.qr(random.standard_normal((columns, rows)))
    scale = np.sqrt(spectrum(rows, rank))
    return ((left * scale) @ right.T).reshape(shape).astype(np.float32)


def reference_rank(filters: np.ndarray, ratio: float) -> int:
    """The reference's rule: an uncentred covariance, a general solver, the cumulative sum."""
    columns = filters.reshape(len(filters), -1).T.astype(np.float64)
    covariance = columns.T @ columns / (len(columns) - 1)
    values = np.sort(np.linalg.eig((covariance + covariance.T) / 2)[0].real)[::-1]
    return int(np.argmax(np.cumsum(values) / values.sum() >= ratio)) + 1


@pytest.mark.parametrize(
    ("row", "ranks", "ratio", "macs"),
    [("baseline", 548, 0.802, None), ("L2 force", 126, 0.310, 2.83)],
)
def test_ranks_of_resnet20(
    row: str, ranks: int, ratio: float, macs: float | None, tmp_path: Path
) -> None:
    published = dict(zip(FACTS["layers"], FACTS["paper_ranks"][row], strict=True))
    net = Net(RECIPE / "deploy.prototxt", "TEST", seed=0)
    random = np.random.default_rng(0)
    for name, rank in published.items():
        blob = net.layer(name).blobs[0]
        made = weight(tuple(blob.shape), rank, random)
        assert reference_rank(made, ENERGY) == rank
        blob.data.copy_(torch.from_numpy(made))
    weights = tmp_path / "net.caffemodel"
    net.save(weights)
    rows = rank_table(RECIPE / "deploy.prototxt", weights, ENERGY, FACTS["layers"])
    assert {r.layer: r.rank for r in rows} == published
    assert sum(int(r.rank) for r in rows if isinstance(r.rank, int)) == ranks
    assert np.mean([r.rank_ratio for r in rows]) == pytest.approx(ratio, abs=5e-4)
    excepted = json.loads((RECIPE / "except.json").read_text())
    plan = make_plan(
        RECIPE / "deploy.prototxt", weights, energy=ENERGY, except_layers=excepted
    )  # fmt: skip
    assert {e.layer: e.rank for e in plan.decomposed()} == published
    if macs is not None:
        written = decompose_net(RECIPE / "deploy.prototxt", weights, plan, tmp_path / "low")
        low = Net(written.net, "TEST", weights=written.weights)
        assert net_cost(net).macs / net_cost(low).macs == pytest.approx(macs, rel=0.02)
