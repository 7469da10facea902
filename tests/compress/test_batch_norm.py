from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from caffe_bridge.compress import LayerPlan, Plan, as_weights_of, rewrite
from caffe_bridge.compress.batch_norm import fold_batch_norm, recalibrate
from caffe_bridge.compress.calibration import array_feeds
from caffe_bridge.errors import PlanError
from caffe_bridge.graph import load_net, parse_net
from caffe_bridge.net import Net
from caffe_bridge.schema import format_text
from tests.compress.checks import CLOSE, as_weights, filled, net_text, outputs, relative
from tests.compress.test_planner import layer
from tests.helpers import SHARED, needs_shared

SHAPE = (4, 3, 8, 8)


def bn(name: str, bottom: str, top: str, more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "BatchNorm" bottom: "{bottom}" top: "{top}" {more} }}'


def scale(name: str, bottom: str, top: str, more: str = "bias_term: true") -> str:
    return (
        f'layer {{ name: "{name}" type: "Scale" bottom: "{bottom}" top: "{top}" '
        f"scale_param {{ {more} }} }}"
    )


def relu(blob: str) -> str:
    return f'layer {{ name: "{blob}_relu" type: "ReLU" bottom: "{blob}" top: "{blob}" }}'


TEXT = net_text(
    SHAPE,
    layer("a", "x", "num_output: 6 kernel_size: 3"), bn("a_bn", "a", "a"),
    scale("a_s", "a", "a"), relu("a"),
    layer("b", "a", "num_output: 8 kernel_size: 3 group: 2 bias_term: false"),
    bn("b_bn", "b", "b_n"), scale("b_s", "b_n", "b_o", "bias_term: false"), relu("b_o"),
    layer("fc", "b_o", "num_output: 5 transpose: true", "InnerProduct"), bn("fc_bn", "fc", "fc"),
)  # fmt: skip


def with_statistics(text: str, factor: float = 3.0) -> tuple:
    record, weights = filled(text)
    random = np.random.default_rng(0)
    blobs = {n: [np.array(b.array()) for b in s] for n, s in weights.blobs.items()}
    for name, arrays in blobs.items():
        if name.endswith("_bn"):
            size = arrays[0].shape
            blobs[name] = [
                (factor * random.standard_normal(size)).astype(np.float32),
                (factor * (0.5 + random.random(size))).astype(np.float32),
                np.array([factor], np.float32),
            ]
        elif name.endswith("_s"):
            blobs[name] = [random.standard_normal(a.shape).astype(np.float32) for a in arrays]
    return record, as_weights(blobs)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE[1:])).astype(np.float32) + 1


def test_folding_keeps_the_answers() -> None:
    record, weights = with_statistics(TEXT)
    made = fold_batch_norm(record, weights)
    assert made.folded == ["a_bn", "b_bn", "fc_bn"]
    assert not made.kept
    names = ["x", "a", "a_relu", "b", "b_o_relu", "fc"]
    assert [layer.name for layer in made.net.layer] == names
    wanted = outputs(TEXT, weights, images(4))
    found = outputs(format_text(made.net), as_weights_of(made.blobs), images(4))
    for blob in ("a", "b_o", "fc"):
        assert relative(found[blob], wanted[blob]) < CLOSE
    assert [len(made.blobs[name]) for name in ("a", "b", "fc")] == [2, 2, 2]


def test_folding_after_decomposition_changes_the_last_link_only() -> None:
    record, weights = with_statistics(TEXT)
    plan = Plan([LayerPlan("a", "pca", 4), LayerPlan("b", "spatial", 4)])
    net, blobs = rewrite(record, weights, plan)
    made = fold_batch_norm(net, as_weights_of(blobs))
    assert made.folded == ["a_bn", "b_bn", "fc_bn"]
    np.testing.assert_array_equal(made.blobs["a_lowrank"][0], blobs["a_lowrank"][0])
    wanted = outputs(format_text(net), as_weights_of(blobs), images(4))["fc"]
    found = outputs(format_text(made.net), as_weights_of(made.blobs), images(4))["fc"]
    assert relative(found, wanted) < CLOSE


def test_count_of_zero_means_no_statistics() -> None:
    record, weights = with_statistics(TEXT, 1.0)
    blobs = {n: [b.array() for b in s] for n, s in weights.blobs.items()}
    blobs["a_bn"][2] = np.zeros(1, np.float32)
    weights = as_weights(blobs)
    made = fold_batch_norm(record, weights)
    wanted = outputs(TEXT, weights, images(4))["a"]
    found = outputs(format_text(made.net), as_weights_of(made.blobs), images(4))["a"]
    assert relative(found, wanted) < CLOSE


#: BatchNorm parameters of the forks; NVCaffe takes an eps of at least 1e-5.
FORKS = {"nvcaffe": "scale_bias: true eps: 1e-7", "intel": "use_weight_bias: true",
         "intel_without_bias": "use_weight_bias: true bias_term: false"}  # fmt: skip


def fork_net(param: str) -> tuple:
    """A convolution, a BatchNorm of a fork and a Scale; one channel has next to no variance."""
    text = net_text(
        SHAPE, layer("a", "x", "num_output: 3 kernel_size: 3"),
        bn("a_bn", "a", "a", f"batch_norm_param {{ {param} }}"), scale("a_s", "a", "a"),
    )  # fmt: skip
    record, weights = with_statistics(text)
    blobs = {n: [b.array() for b in s] for n, s in weights.blobs.items()}
    blobs["a_bn"][1][0] = 1e-6
    random = np.random.default_rng(4)
    extra = 1 if "bias_term" in param else 2
    blobs["a_bn"] += [random.standard_normal(3).astype(np.float32) for _ in range(extra)]
    return text, record, as_weights(blobs)


@pytest.mark.parametrize("fork", FORKS)
def test_folding_the_dialects(fork: str) -> None:
    text, record, weights = fork_net(FORKS[fork])
    made = fold_batch_norm(record, weights)
    assert made.folded == ["a_bn"]
    wanted = outputs(text, weights, images(4))["a"]
    found = outputs(format_text(made.net), as_weights_of(made.blobs), images(4))["a"]
    assert relative(found, wanted) < CLOSE


@pytest.mark.parametrize("fork", FORKS)
def test_recalibrating_the_dialects(fork: str) -> None:
    _, record, weights = fork_net(FORKS[fork])
    net = Net(load_net(record), weights=weights)
    before = [blob.detach().clone() for blob in net.layer("a_bn").blobs[3:]]
    assert recalibrate(net, array_feeds(net, {"x": images(4)})) == ["a_bn"]
    own = net.layer("a_bn").blobs
    with torch.no_grad():
        (conv,) = net.layer("a")(torch.from_numpy(images(4)))
    rows = conv.double().movedim(1, 0).flatten(1)
    # The stored sums are divided by the third blob, which was 3 before.
    assert own[2].tolist() == [1.0]
    np.testing.assert_allclose(own[0].detach(), rows.mean(1), rtol=1e-4, atol=1e-5)
    kept = rows.var(1, correction=0 if fork == "nvcaffe" else 1)
    np.testing.assert_allclose(own[1].detach(), kept, rtol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, own[3:], strict=True))


@pytest.mark.parametrize("lacking", ["a", "a_s", "a_bn"])
def test_layers_without_values_are_not_folded(lacking: str) -> None:
    _, record, weights = fork_net(FORKS["nvcaffe"])
    del weights.blobs[lacking]
    made = fold_batch_norm(record, weights)
    assert not made.folded
    what = "statistics for it" if lacking == "a_bn" else f"values for {lacking}"
    assert made.kept == {"a_bn": f"weights holds no {what}"}


CONV = layer("a", "x", "num_output: 3 kernel_size: 1")
KEPT = [
    (
        (CONV, bn("a_bn", "a", "a", "batch_norm_param { relu: true }")),
        r"it rectifies its answer \(relu: true\)",
    ),
    ((bn("a_bn", "x", "a"),), "it follows x \\(Input\\), which has no weight"),
    ((CONV, relu("a"), bn("a_bn", "a", "a")), r"it follows a_relu \(ReLU\)"),
    ((CONV, bn("a_bn", "a", "n"), scale("z", "a", "z")), "other layers read the answer of a too"),
    (
        (CONV, bn("a_bn", "a", "a", "batch_norm_param { use_global_stats: false }")),
        "it uses the statistics of the batch",
    ),
    (
        (layer("a", "x", "num_output: 3 axis: 2", "InnerProduct"), bn("a_bn", "a", "a")),
        "its channels are not the filters of a",
    ),
    (
        (
            layer("a", "x", "num_output: 3 kernel_size: 1", more='param { name: "w" }'),
            bn("a_bn", "a", "n"),
        ),
        "a shares its weight",
    ),
]


@pytest.mark.parametrize(("layers", "reason"), KEPT)
def test_what_is_not_folded(layers: tuple[str, ...], reason: str) -> None:
    text = net_text(SHAPE, *layers)
    record, weights = with_statistics(text)
    made = fold_batch_norm(record, weights)
    assert not made.folded
    assert re.search(reason, made.kept["a_bn"])
    assert [layer.name for layer in made.net.layer] == [layer.name for layer in record.layer]


def test_a_scale_of_two_blobs_stays() -> None:
    text = net_text(
        SHAPE, layer("a", "x", "num_output: 3 kernel_size: 1"), bn("a_bn", "a", "a"),
        'layer { name: "s" type: "Scale" bottom: "a" bottom: "x" top: "s" '
        "scale_param { axis: 0 } }",
    )  # fmt: skip
    record, weights = with_statistics(text)
    made = fold_batch_norm(record, weights)
    assert [layer.name for layer in made.net.layer] == ["x", "a", "s"]
    wanted = outputs(text, weights, images(4))["s"]
    found = outputs(format_text(made.net), as_weights_of(made.blobs), images(4))["s"]
    assert relative(found, wanted) < CLOSE


def test_recalibrated_statistics_are_those_of_all_data() -> None:
    record, weights = with_statistics(TEXT)
    net = Net(load_net(record), weights=weights)
    data = images(40, 5)
    assert recalibrate(net, array_feeds(net, {"x": data})) == ["a_bn", "b_bn", "fc_bn"]
    # One pass over everything at once, layer for layer in the net's own values.
    whole = Net(load_net(record), weights=weights, inputs={"x": data.shape})
    for mine, theirs in zip(whole.built.layers, net.built.layers, strict=True):
        mine.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        values = whole.run({"x": torch.from_numpy(data)})
    for node, built in zip(whole.built.graph.nodes, whole.built.layers, strict=True):
        if node.layer.type != "BatchNorm":
            continue
        rows = values[node.inputs[0].index].double().movedim(1, 0).flatten(1)
        mean, variance = built.statistics()
        np.testing.assert_allclose(mean, rows.mean(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, rows.var(1), rtol=1e-4)


def test_recalibration_wants_data() -> None:
    record, weights = with_statistics(TEXT)
    with pytest.raises(PlanError, match="at least one batch"):
        recalibrate(Net(load_net(record), weights=weights), [])


@needs_shared
def test_folding_a_trained_residual_net() -> None:
    folder = SHARED / "models" / "cifar10_resnet20"
    net, weights = folder / "deploy.prototxt", folder / "weights.caffemodel"
    made = fold_batch_norm(net, weights)
    assert len(made.folded) >= 19
    whole = Net(net, weights=weights)
    small = Net(parse_net(format_text(made.net)), weights=as_weights_of(made.blobs))
    name, shape = next(iter(whole.inputs.items()))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    with torch.no_grad():
        wanted, found = (n({name: x}) for n in (whole, small))
    for blob, value in wanted.items():
        assert relative(found[blob].numpy(), value.numpy()) < 1e-4
