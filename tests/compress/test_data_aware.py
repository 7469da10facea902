from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.compress import LayerPlan, Plan, as_weights_of, rewrite
from caffe_bridge.compress.calibration import Moments, array_feeds, data_feeds, npz_feeds
from caffe_bridge.compress.data_aware import decompose_with_data, output_ranks, regress
from caffe_bridge.errors import BlobError, PlanError, SchemaError
from caffe_bridge.graph import load_net, parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.verify import verify
from caffe_bridge.schema import Record, Weights, format_text
from tests.compress.checks import CLOSE, GAUSS, filled, net_text, outputs, relative
from tests.compress.test_planner import layer

RELU = 'layer {{ name: "{0}r" type: "ReLU" bottom: "{0}" top: "{0}" }}'
SHAPE = (4, 3, 10, 10)
TEXT = net_text(
    SHAPE,
    layer("a", "x", "num_output: 12 kernel_size: 3 pad: 1"), RELU.format("a"),
    layer("b", "a", "num_output: 16 kernel_size: 3 group: 2 bias_term: false"), RELU.format("b"),
    layer("c", "b", "num_output: 12 kernel_size: 3 stride: 2"), RELU.format("c"),
    layer("fc", "c", "num_output: 8 transpose: true", "InnerProduct"),
)  # fmt: skip
NET, WEIGHTS = filled(TEXT)
RANKS = {"a": 5, "b": 6, "c": 5, "fc": 4}
PLAN = Plan([LayerPlan(name, "pca", rank, reason="given") for name, rank in RANKS.items()])


def images(count: int, seed: int) -> np.ndarray:
    """Smooth positive pictures: inputs with a mean and far from white."""
    random = np.random.default_rng(seed)
    coarse = random.random((count, 3, 4, 4)).astype(np.float32)
    fine = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=10, mode="bilinear")
    return fine.numpy()


FEEDS = array_feeds(Net(parse_net(TEXT), weights=WEIGHTS), {"x": images(48, 0)})
HELD_OUT = images(4, 1)


def answer(net: Record, weights: Weights, blob: str = "fc") -> np.ndarray:
    return outputs(format_text(net), weights, HELD_OUT)[blob]


def loss(net: Record, weights: Weights) -> float:
    wanted = answer(NET, WEIGHTS)
    return float(np.linalg.norm(answer(net, weights) - wanted) / np.linalg.norm(wanted))


def test_data_beats_weights_and_asymmetric_beats_symmetric() -> None:
    net, blobs = rewrite(NET, WEIGHTS, PLAN)
    plain = loss(net, as_weights_of(blobs))
    made = [decompose_with_data(NET, WEIGHTS, PLAN, FEEDS, asymmetric=a) for a in (False, True)]
    symmetric, asymmetric = (loss(m.net, as_weights_of(m.blobs)) for m in made)
    assert symmetric < plain
    assert asymmetric < symmetric
    assert [layer.name for layer in made[1].net.layer] == [layer.name for layer in net.layer]


@pytest.mark.parametrize("asymmetric", [False, True])
def test_full_rank_changes_nothing(asymmetric: bool) -> None:
    full = Plan([LayerPlan("a", "pca", 12), LayerPlan("b", "svd", 16), LayerPlan("fc", "pca", 8)])
    made = decompose_with_data(NET, WEIGHTS, full, FEEDS, asymmetric=asymmetric, positions=0)
    found = answer(made.net, as_weights_of(made.blobs))
    # The ridge of the regression is 1e-6 of the mean variance.
    assert relative(found, answer(NET, WEIGHTS)) < (1e-3 if asymmetric else CLOSE)
    assert all(entry.error < 1e-2 for entry in made.plan.layers)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("balance", "share"), [("first", 0.0), ("both", 0.5), ("second", 1.0)])
def test_svd_keeps_its_balance(balance: str, share: float, relu: bool) -> None:
    def pairs(method: str, options: dict[str, str]) -> dict[str, list[np.ndarray]]:
        plan = Plan([LayerPlan(n, method, 4, options=options) for n in ("b", "fc")])
        blobs = decompose_with_data(NET, WEIGHTS, plan, FEEDS, relu=relu).blobs
        fc = [blobs["fc_lowrank"][0].T, blobs["fc_linear"][0].T]
        grouped = blobs["b_linear"][0].reshape(2, 8, 2).swapaxes(0, 1).reshape(8, 4)
        return {"b": [blobs["b_lowrank"][0].reshape(4, -1), grouped], "fc": fc}

    want, found = pairs("pca", {}), pairs("svd", {"balance": balance})
    for name, (basis, combination) in found.items():
        scale = np.linalg.norm(want[name][0], axis=1)
        np.testing.assert_allclose(np.linalg.norm(combination, axis=0), scale**share, rtol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(basis, axis=1), scale ** (1 - share), rtol=1e-4)
        both = (combination[:, :, None] * basis, want[name][1][:, :, None] * want[name][0])
        assert relative(*both) < 1e-3


def test_predicted_error_is_the_error_on_the_data() -> None:
    plan = Plan([LayerPlan("a", "pca", 5)])
    made = decompose_with_data(NET, WEIGHTS, plan, FEEDS, positions=0)
    whole = Net(load_net(NET), weights=WEIGHTS)
    small = Net(load_net(made.net), weights=as_weights_of(made.blobs))
    index = next(i for i, n in enumerate(whole.built.graph.nodes) if n.layer.name == "a")
    value = whole.built.graph.nodes[index].outputs[0].index
    other = next(n for n in small.built.graph.nodes if n.layer.name == "a_linear").outputs[0].index
    with torch.no_grad():
        pairs = [(whole.run(f)[value].double(), small.run(f)[other].double()) for f in FEEDS]
    y, z = (torch.cat(part).movedim(1, 0).reshape(12, -1) for part in zip(*pairs, strict=True))
    error = (y - z).norm() / (y - y.mean(dim=1, keepdim=True)).norm()
    assert made.plan.layers[0].error == pytest.approx(float(error), rel=1e-3)
    assert "asymmetric fit to responses" in made.plan.layers[0].reason


def test_a_layer_without_bias_gets_one_and_onnx_agrees() -> None:
    made = decompose_with_data(NET, WEIGHTS, PLAN, FEEDS)
    assert [len(made.blobs[f"{name}_linear"]) for name in RANKS] == [2, 2, 2, 2]
    net = Net(load_net(made.net), weights=as_weights_of(made.blobs))
    assert net.missing == []
    verify(net).require("data aware")
    assert made.plan.settings["data_aware"] == "asymmetric"


def test_other_methods_and_depthwise_stay_without_data() -> None:
    plan = Plan([LayerPlan("a", "spatial", 4), LayerPlan("c", "pca", 5)])
    made = decompose_with_data(NET, WEIGHTS, plan, FEEDS)
    plain = rewrite(NET, WEIGHTS, plan)[1]
    np.testing.assert_array_equal(made.blobs["a_v"][0], plain["a_v"][0])
    assert np.abs(made.blobs["c_linear"][0] - plain["c_linear"][0]).max() > 1e-3
    why = "without data, because spatial is fitted to weights only"
    assert made.plan.layers[0].reason == why


def test_regression_is_the_best_of_its_rank() -> None:
    random = np.random.default_rng(0)
    g = random.standard_normal((6, 400)) * np.arange(1, 7)[:, None] + 2
    y = random.standard_normal((6, 6)) @ g + 0.5 * random.standard_normal((6, 400)) + 1
    found = Moments(6)
    for part in np.split(np.arange(400), 4):
        found.add(y[:, part], g[:, part])
    vectors, reduced, bias = regress(found, 2, exact=False)
    best = np.linalg.norm(y - (vectors @ reduced @ g + bias[:, None]))
    centred_y, centred_g = y - y.mean(1, keepdims=True), g - g.mean(1, keepdims=True)
    # Reduced-rank regression in closed form: project the least-squares fit on its top directions.
    fit = centred_y @ np.linalg.pinv(centred_g) @ centred_g
    left = np.linalg.svd(fit)[0][:, :2]
    assert best == pytest.approx(np.linalg.norm(centred_y - left @ left.T @ fit), rel=1e-4)


def test_ranks_of_responses() -> None:
    plan = output_ranks(NET, WEIGHTS, FEEDS, 0.95)
    ranks = {entry.layer: entry.rank for entry in plan.layers}
    assert list(ranks) == ["a", "b", "c"]
    more = {e.layer: e.rank for e in output_ranks(NET, WEIGHTS, FEEDS, 0.999).layers}
    assert all(ranks[name] <= more[name] for name in ranks)
    assert ranks["b"] % 2 == 0
    only = output_ranks(NET, WEIGHTS, FEEDS, 0.9, layers=["fc"])
    assert [entry.layer for entry in only.layers] == ["fc"]
    with pytest.raises(PlanError, match="layers: x cannot be decomposed"):
        output_ranks(NET, WEIGHTS, FEEDS, 0.9, layers=["x"])


def test_npz(tmp_path: Path) -> None:
    net = Net(parse_net(TEXT), weights=WEIGHTS)
    np.savez(tmp_path / "in.npz", x=images(11, 3))
    feeds = npz_feeds(net, tmp_path / "in.npz")
    assert [tuple(feed["x"].shape) for feed in feeds] == [SHAPE, SHAPE]
    assert len(npz_feeds(net, tmp_path / "in.npz", limit=1)) == 1
    np.savez(tmp_path / "other.npz", y=images(4, 3))
    np.savez(tmp_path / "small.npz", x=images(4, 3)[..., 1:])
    np.savez(tmp_path / "few.npz", x=images(3, 3))
    (tmp_path / "text.npz").write_text("no")
    for name, message in (
        ("other", "has no array 'x'"), ("small", r"items of shape \(3, 10, 9\), the net takes"),
        ("few", "holds less than one batch"), ("text", "is no npz file"),
    ):  # fmt: skip
        with pytest.raises(BlobError, match=message):
            npz_feeds(net, tmp_path / f"{name}.npz")
    with pytest.raises(SchemaError, match="no such npz file"):
        npz_feeds(net, tmp_path / "none.npz")


def test_batches_of_a_data_layer() -> None:
    data = (
        'layer { name: "d" type: "DummyData" top: "x" dummy_data_param { '
        'shape { dim: 4 dim: 3 dim: 10 dim: 10 } data_filler { type: "gaussian" std: 1 } } }'
    )
    text = "\n".join((data, *TEXT.splitlines()[1:]))
    feeds = data_feeds(Net(parse_net(text), weights=WEIGHTS), 2)
    assert [tuple(feed["x"].shape) for feed in feeds] == [SHAPE, SHAPE]
    with pytest.raises(BlobError, match="is fed by the caller; give an npz"):
        data_feeds(Net(parse_net(TEXT), weights=WEIGHTS), 1)


def test_no_batches() -> None:
    with pytest.raises(PlanError, match="at least one batch"):
        decompose_with_data(NET, WEIGHTS, PLAN, [])


def test_a_layer_that_shares_its_bias_is_made_without_data() -> None:
    param = "param {} param { name: 'b' }"
    text = net_text(
        (4, 6, 6, 6),
        *(f'layer {{ name: "{n}" type: "Convolution" bottom: "{b}" top: "{n}" {param} '
          f"convolution_param {{ num_output: 6 kernel_size: 1 {GAUSS} }} }}"
          for n, b in (("p", "x"), ("q", "p"))),
    )  # fmt: skip
    net, weights = filled(text)
    feeds = array_feeds(Net(parse_net(text), weights=weights), {
        "x": np.random.default_rng(0).standard_normal((8, 6, 6, 6)).astype(np.float32) + 1
    })  # fmt: skip
    plan = Plan([LayerPlan("p", "pca", 3, reason="given"), LayerPlan("q", "pca", 3)])
    made = decompose_with_data(net, weights, plan, feeds)
    reasons = [entry.reason for entry in made.plan.layers]
    assert reasons[0] == "given; without data, because its bias is shared with q"
    plain = rewrite(net, weights, plan)[1]
    for name, arrays in plain.items():
        for got, want in zip(made.blobs[name], arrays, strict=True):
            np.testing.assert_array_equal(got, want)
