"""Decomposition by a plan and rank clipping on every recipe of solvers/, with few filters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.compress import LayerPlan, Plan, decompose_net, load_plan, make_plan
from caffe_bridge.compress.clip import RankClipper, find_pairs
from caffe_bridge.graph import load_net, read_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from caffe_bridge.onnx_export.verify import verify
from caffe_bridge.schema import Record, write_text
from caffe_bridge.solver import Solver, read_solver

SOLVERS = Path(__file__).resolve().parents[2] / "solvers"
#: Recipe -> image, batch, divisor of the filters.
RECIPES = {
    "lenet": ((1, 28, 28), 4, 1),
    "cifar10_full": ((3, 32, 32), 4, 2),
    "cifar10_resnet20": ((3, 32, 32), 4, 1),
    "alexnet": ((3, 67, 67), 2, 8),
    "googlenet": ((3, 224, 224), 1, 8),
}


def narrower(net: Record, divisor: int) -> None:
    """Fewer filters in all layers but the classifiers."""
    for layer in net.layer:
        fc = layer.type == "InnerProduct"
        field = "inner_product_param" if fc else "convolution_param"
        if layer.type in ("Convolution", "InnerProduct"):
            param = layer.mutable(field)
            if param.num_output not in (10, 1000):
                param.num_output = max(
                    param.num_output // divisor, 2 * param.group if not fc else 2
                )


def small(recipe: str, kind: str) -> Record:
    """A net of a recipe with narrow layers; data layers give seeded noise."""
    image, batch, divisor = RECIPES[recipe]
    net = read_net(SOLVERS / recipe / f"{kind}.prototxt")
    narrower(net, divisor)
    made = []
    for layer in net.layer:
        if layer.type == "Data":
            dummy = Record("LayerParameter", name=layer.name, type="DummyData",
                           top=list(layer.top), include=list(layer.include))  # fmt: skip
            param = dummy.mutable("dummy_data_param")
            param.add("shape", dim=[batch, *image])
            param.add("shape", dim=[batch])
            param.add("data_filler", type="gaussian", std=1.0)
            param.add("data_filler", type="constant", value=3.0)
            layer = dummy
        elif layer.type == "Input":
            layer.input_param.shape[0].dim = [1, *image]
        made.append(layer)
    net.layer = made
    return net


@pytest.fixture(params=list(RECIPES))
def recipe(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def files(recipe: str, kind: str, folder: Path) -> tuple[Path, Path]:
    """Prototxt and weights from the fillers."""
    path = folder / f"{kind}.prototxt"
    write_text(small(recipe, kind), path)
    net = Net(load_net(path, "TRAIN" if kind == "train_test" else "TEST"), seed=0)
    weights = folder / f"{kind}.caffemodel"
    net.save(weights)
    return path, weights


def test_a_plan_decomposes_it_and_onnx_agrees(recipe: str, tmp_path: Path) -> None:
    net, weights = files(recipe, "deploy", tmp_path)
    plan = make_plan(net, weights, energy=0.6, include_fc=True)
    plan.save(tmp_path / "plan.json")
    written = decompose_net(net, weights, load_plan(tmp_path / "plan.json"), tmp_path / "low")
    assert len(plan.decomposed()) > 1
    made = Net(written.net, "TEST", weights=written.weights)
    assert made.missing == []
    for entry in plan.decomposed():
        basis = made.layer(f"{entry.layer}_lowrank").blobs[0]
        assert basis.shape[0] == entry.rank
    assert verify(made, export(made), batches=(1,)).require(recipe).worst < 1e-4


def groups(values: torch.Tensor, group: int) -> np.ndarray:
    return values.detach().double().reshape(group, len(values) // group, -1).numpy()


def test_clipping_carries_weights_and_momentum(recipe: str, tmp_path: Path) -> None:
    net, weights = files(recipe, "train_test", tmp_path)
    targets = find_convolutions(net, weights)
    plan = Plan([LayerPlan(name, "pca", rank) for name, rank in targets.items()])
    written = decompose_net(net, weights, plan, tmp_path / "low")
    param = read_solver(SOLVERS / recipe / "solver_finetune.prototxt")
    param.net, param.snapshot_prefix = str(written.net), str(tmp_path / "snap")
    param.test_interval, param.test_iter, param.max_iter = 2, [1], 2
    param.solver_mode = "CPU"
    first = Solver(param)
    first.net.load(written.weights)
    made = RankClipper(first, Solver, 0.7)
    first.step(2)
    pairs = find_pairs(first.net.built.spec)
    before = state(first)
    assert made.clip()
    after = state(made.solver)
    shrunk = [p for p in pairs if made.ranks[0][1][p.name] < p.rank]
    assert shrunk
    for pair in shrunk:
        rank = made.ranks[0][1][pair.name] // pair.group
        old = [groups(v, pair.group) for v in (*before[pair.lowrank], *before[pair.linear])]
        new = [groups(v, pair.group) for v in (*after[pair.lowrank], *after[pair.linear])]
        basis = np.linalg.svd(old[0], full_matrices=False)[0][:, :, :rank]
        onto = basis @ basis.transpose(0, 2, 1)
        # Signs of a basis are free; products of the two layers' values do not know them.
        for outer, inner in ((2, 0), (2, 1), (3, 0)):
            want, got = old[outer] @ onto @ old[inner], new[outer] @ new[inner]
            np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max() + 1e-12)
    stem = "snap_" + "_".join(map(str, made.ranks[0][1].values()))
    assert {f"{stem}_net.prototxt", f"{stem}_solver.prototxt"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert any(path.name.startswith(f"{stem}.caffemodel") for path in tmp_path.iterdir())
    made.solver.step(1)
    assert np.isfinite(made.solver.loss)


def find_convolutions(net: Path, weights: Path) -> dict[str, int]:
    """Full ranks (at most) of the convolutions that have more than one filter a group."""
    found = make_plan(net, weights, energy=1.0).decomposed()
    return {entry.layer: entry.rank for entry in found}


def state(solver: Solver) -> dict[str, list[torch.Tensor]]:
    """By layer the weight and its momentum."""
    return {
        blob.layer: [blob.value.detach().clone(), solver.history[0][i].clone()]
        for i, blob in enumerate(solver.net.learnable) if blob.index == 0
    }  # fmt: skip
