"""Real trained nets: ranks known for them, and the files of a decomposed net."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.compress import decompose_net, load_plan, make_plan, rank_table
from caffe_bridge.graph import read_net
from caffe_bridge.schema import load_weights
from tests.helpers import SHARED, needs_shared

pytestmark = needs_shared


def _files(model: str) -> tuple[Path, Path]:
    folder = SHARED / "models" / model
    return folder / "deploy.prototxt", folder / "weights.caffemodel"


@pytest.mark.parametrize("method", ["pca", "svd"])
def test_cifar10_full_ranks(method: str) -> None:
    rows = rank_table(*_files("cifar10_full"), 0.95, method=method)
    assert [(r.rank, r.num_output) for r in rows] == [(15, 32), (26, 32), (54, 64)]


def test_resnet20_mean_rank_ratio() -> None:
    rows = rank_table(*_files("cifar10_resnet20"), 0.95)
    # The two projection shortcuts (1x1 filters) do not count in the paper's mean.
    ratios = [r.rank_ratio for r in rows if r.inputs % 9 == 0]
    assert len(ratios) == 19
    assert np.mean(ratios) == pytest.approx(0.816, abs=5e-4)


@pytest.mark.parametrize("hdf5", [False, True])
@pytest.mark.parametrize("model", ["cifar10_full", "lenet_mnist", "cifar10_resnet20", "mtcnn_onet"])
def test_written_files(model: str, hdf5: bool, tmp_path: Path) -> None:
    net, weights = _files(model)
    plan = make_plan(net, weights, energy=0.9, include_fc=True)
    written = decompose_net(net, weights, plan, tmp_path / "out", hdf5)
    assert load_plan(written.plan) == plan
    before, after = load_weights(weights), load_weights(written.weights)
    record = read_net(written.net)
    replaced = {entry.layer: entry for entry in plan.decomposed()}
    assert replaced
    assert not replaced.keys() & {layer.name for layer in record.layer}
    for layer in read_net(net).layer:
        stored = before.blobs.get(layer.name, [])
        if layer.name not in replaced:
            for one, other in zip(stored, after.blobs.get(layer.name, []), strict=True):
                np.testing.assert_array_equal(one.array().reshape(-1), other.array().reshape(-1))
                assert not other.legacy
            continue
        basis = after.blobs[f"{layer.name}_lowrank"][0].array()
        linear = after.blobs[f"{layer.name}_linear"]
        assert basis.shape[0] == replaced[layer.name].rank
        original = stored[0].array().reshape(linear[0].shape[0], -1)
        product = linear[0].array().reshape(len(original), -1) @ basis.reshape(len(basis), -1)
        error = np.linalg.norm(original - product) / np.linalg.norm(original)
        assert error == pytest.approx(replaced[layer.name].error, abs=1e-5)
        if len(stored) > 1:
            np.testing.assert_array_equal(linear[1].array(), stored[1].array().reshape(-1))


def test_depthwise_and_deconvolution_stay() -> None:
    plan = make_plan(*_files("retinaface_mnet25"), energy=0.95)
    reasons = {entry.reason for entry in plan.layers if entry.whole}
    assert any("depthwise" in reason for reason in reasons)
    assert all(entry.rank == 0 for entry in plan.layers if entry.whole)
