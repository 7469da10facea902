"""The journey of a sparse low-rank net: on a real LeNet, and on a small net that trains."""

from __future__ import annotations

import numpy as np
import torch

from caffe_bridge.compress import as_weights_of, make_plan, rewrite
from caffe_bridge.compress.balance import balance
from caffe_bridge.compress.sparse import Unit, prune
from caffe_bridge.compress.sparse.shrink import shrink
from caffe_bridge.graph import read_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from caffe_bridge.onnx_export.quantize import agreement, quantize
from caffe_bridge.onnx_export.verify import verify
from caffe_bridge.schema import Record, format_text, load_weights, parse_text
from caffe_bridge.solver import Solver
from tests.compress.sparse_nets import conv, fc, layer
from tests.shared import SHARED, needs_shared

LENET = SHARED / "models" / "lenet_mnist"


@needs_shared
def test_lenet_low_rank_sparse_and_int8() -> None:
    record = read_net(LENET / "deploy.prototxt")
    weights = load_weights(LENET / "weights.caffemodel")
    plan = make_plan(record, weights, energy=0.95, include_fc=True, except_layers=["ip2"])
    low, blobs = rewrite(record, weights, plan)
    layers = ["conv2_lowrank", "conv2_linear", "ip1_lowrank", "ip1_linear"]
    pruned = prune(low, as_weights_of(blobs), Unit("row"), sparsity=0.3, layers=layers)
    masked = Net(pruned.net, weights=as_weights_of(pruned.blobs))
    made = shrink(pruned.net, as_weights_of(pruned.blobs))
    assert made.worst < 1e-5
    smaller = Net(made.net, weights=as_weights_of(made.blobs))
    small, large = export(smaller), export(masked)
    assert small.ByteSize() < 0.6 * large.ByteSize()
    pictures = torch.from_numpy(np.load(LENET / "io.npz")["in/data"])
    assert verify(masked, small, feed={"data": pictures}, tolerance=1e-5).passed
    _, balanced, pairs = balance(made.net, as_weights_of(made.blobs))
    assert [p.second for p in pairs] == ["conv1_linear", "conv2_linear", "ip1_linear"]
    smaller.load(as_weights_of(balanced))
    feeds = [{"data": pictures.numpy()}]
    # 8-bit weights saturate on CPUs without VNNI.
    model = quantize(smaller, feeds, outputs=["ip2"], reduce_range=True)
    found = agreement(smaller, model, feeds)
    assert found.output == "ip2" and found.items == len(pictures) and found.relative < 0.1
    assert model.ByteSize() < 0.5 * small.ByteSize()


DATA = """
layer { name: "data" type: "DummyData" top: "x" top: "label" dummy_data_param {
  shape { dim: 6 dim: 4 dim: 7 dim: 7 } shape { dim: 6 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 2 } } }
"""


def test_pruned_trained_and_shrunk_net_goes_on_training() -> None:
    text = DATA + conv("a", "x", 8, pad=1) + layer("bn", "BatchNorm", "a", top="a") + (
        layer("s", "Scale", "a", "scale_param { bias_term: true }", top="a")
        + layer("r", "ReLU", "a", top="a") + fc("f", "a", 3)
        + layer("loss", "SoftmaxWithLoss", "f label")
    )  # fmt: skip

    def solver(net: Record, settings: str = "") -> Solver:
        param = parse_text("base_lr: 0.05 lr_policy: 'fixed' momentum: 0.9 max_iter: 9 "
                           f"random_seed: 2 {settings}", "SolverParameter")  # fmt: skip
        param.net_param = net
        return Solver(param)

    first = solver(parse_text(text, "NetParameter"), "keep_zeros: true")
    pruned = prune(first.net.built.spec.record, _stored(first), Unit("filter"), sparsity=0.5,
                   layers=["a"])  # fmt: skip
    first.net.load(as_weights_of(pruned.blobs))
    first.step(4)
    stored = _stored(first)
    made = shrink(parse_text(text, "NetParameter"), stored)
    assert [row.filters for row in made.layers] == [(8, 4), (3, 3)]
    again = solver(parse_text(format_text(made.net), "NetParameter"))
    assert not again.net.load(as_weights_of(made.blobs))
    assert next(tuple(b.value.shape) for b in again.net.learnable) == (4, 4, 3, 3)
    again.step(3)
    assert np.isfinite(again.loss)


def _stored(solver: Solver):  # type: ignore[no-untyped-def]
    return as_weights_of({
        made.name: [b.detach().numpy().copy() for b in made.blobs]
        for made in solver.net.built.layers if len(made.blobs)
    })  # fmt: skip
