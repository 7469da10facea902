"""Low-rank nets of an experiment: new BatchNorm statistics, and forms that compute the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.compress import as_weights_of, make_plan, rewrite
from caffe_bridge.experiment.lowrank import planned_form, write_lowrank
from caffe_bridge.experiment.recipe import DEPLOY, NET
from caffe_bridge.experiment.stages import inside
from caffe_bridge.graph import read_net
from caffe_bridge.net import Net
from caffe_bridge.schema import Weights, load_weights
from tests.experiment.digits import write_digits

BODY = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 12 kernel_size: 5 stride: 2 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
"""  # noqa: E501 - a parameter a line
DATA = """
layer { name: "data" type: "Data" top: "data" top: "label"
        transform_param { scale: 0.0039 }
        data_param { source: "mnist_train_lmdb" batch_size: 20 backend: LMDB } }
"""
LOSS = """
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
        include { phase: TEST } }
"""
INPUT = """
layer { name: "data" type: "Input" top: "data"
        input_param { shape { dim: 4 dim: 1 dim: 28 dim: 28 } } }
"""


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Weights]:
    """Weights of a net in the current folder that has seen some batches."""
    with inside(tmp_path):
        write_digits(Path())
        Path(NET).write_text(DATA + BODY + LOSS)
        Path(DEPLOY).write_text(INPUT + BODY)
        net = Net(NET, "TRAIN", seed=1)
        for _ in range(3):
            net.forward_backward()
        net.save("dense.caffemodel")
        yield load_weights("dense.caffemodel")


def _variance(path: str) -> np.ndarray:
    mean, variance, factor = (np.asarray(b.array()) for b in load_weights(path).blobs["bn"] if b)
    assert mean.shape == variance.shape
    return variance / factor


def test_recalibration_measures_the_decomposed_net(weights: Weights) -> None:
    plan = make_plan(read_net(NET), weights, config={"conv": 2})
    old = write_lowrank(plan, weights, "old", batches=1)
    new = write_lowrank(plan, weights, "new", batches=1, recalibrated=3)
    assert old["ranks"] == new["ranks"] == {"conv": 2}
    np.testing.assert_array_equal(_variance(old["weights"]), _variance("dense.caffemodel"))
    feed = Net(NET, "TRAIN")
    batches = [feed.layer("data").run([])[0] for _ in range(3)]
    model = Net(f"new/{DEPLOY}", "TEST", weights=new["weights"])
    with torch.no_grad():
        answers = torch.cat([
            model.layer("conv_linear").run(model.layer("conv_lowrank").run([batch]))[0]
            for batch in batches
        ])  # fmt: skip
    want = answers.double().var(dim=(0, 2, 3)).numpy()
    np.testing.assert_allclose(_variance(new["weights"]), want, rtol=1e-4)


def test_the_planned_form_computes_the_same(weights: Weights) -> None:
    plan = make_plan(read_net(NET), weights, config={"conv": 2})
    low = write_lowrank(plan, weights, "low", batches=1)
    best, merged = planned_form(low["weights"], low["ranks"], batch=1, threads=1, quick=True)
    assert [entry.layer for entry in best.layers] == ["conv"]
    record, blobs = rewrite(read_net(DEPLOY), merged, best)
    mine = Net(record, "TEST", weights=as_weights_of(blobs))
    theirs = Net(f"low/{DEPLOY}", "TEST", weights=low["weights"])
    feed = {"data": torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(2))}
    torch.testing.assert_close(mine.forward(feed)["ip"], theirs.forward(feed)["ip"],
                               rtol=1e-4, atol=1e-4)  # fmt: skip
