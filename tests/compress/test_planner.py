from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffe_bridge.compress import (
    LayerPlan,
    make_plan,
    parse_plan,
    rank_by_energy,
    rank_by_norm,
    theoretical_speedup,
)
from caffe_bridge.errors import PlanError, WeightError
from caffe_bridge.graph import parse_net
from caffe_bridge.schema import parse_text
from tests.compress.checks import GAUSS, as_weights, filled, net_text


def layer(name: str, bottom: str, param: str, kind: str = "Convolution", more: str = "") -> str:
    field = "inner_product_param" if kind == "InnerProduct" else "convolution_param"
    return (
        f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {more} '
        f"{field} {{ {param} {GAUSS} }} }}"
    )


TEXT = net_text(
    (1, 4, 8, 8),
    layer("a", "x", "num_output: 8 kernel_size: 3 pad: 1"),
    layer("dw", "a", "num_output: 8 kernel_size: 3 group: 8"),
    layer("b", "a", "num_output: 12 kernel_size: 3 group: 2"),
    layer("fc", "b", "num_output: 6", "InnerProduct"),
)
NET, WEIGHTS = filled(TEXT)


def spectrum(name: str) -> np.ndarray:
    blob = WEIGHTS.blobs[name][0].array()
    return np.linalg.svd(blob.reshape(len(blob), -1).astype(np.float64), compute_uv=False) ** 2


def by_name(plan: Any) -> dict[str, LayerPlan]:
    return {entry.layer: entry for entry in plan.layers}


def test_energy() -> None:
    plan = make_plan(NET, WEIGHTS, energy=0.8)
    entries = by_name(plan)
    assert list(entries) == ["a", "dw", "b", "fc"]
    rank = rank_by_energy(spectrum("a"), 0.8)
    kept = spectrum("a")[:rank].sum() / spectrum("a").sum()
    assert entries["a"].rank == rank
    assert entries["a"].energy == pytest.approx(kept, rel=1e-5)
    assert entries["a"].error == pytest.approx(np.sqrt(1 - kept), rel=1e-5)
    assert entries["a"].theoretical_speedup == pytest.approx(
        theoretical_speedup(8, 36, rank), rel=1e-5
    )
    assert entries["b"].rank % 2 == 0
    assert entries["dw"].whole
    assert "depthwise" in entries["dw"].reason
    assert entries["fc"].whole
    assert plan.net == "net.prototxt"
    assert plan.weights == "weights"
    assert plan.settings["energy"] == 0.8
    assert parse_plan(plan.to_json()) == plan


def test_norm_rule() -> None:
    plan = make_plan(NET, WEIGHTS, energy=0.8, method="svd", rule="norm")
    assert by_name(plan)["a"].rank == rank_by_norm(spectrum("a"), 0.8)
    assert plan.settings["rule"] == "norm"


def test_energy_with_fc() -> None:
    plan = make_plan(NET, WEIGHTS, energy=1.0, include_fc=True)
    assert [e.layer for e in plan.decomposed()] == ["a", "b", "fc"]
    assert [e.rank for e in plan.decomposed()] == [8, 12, 6]
    assert [e.error for e in plan.decomposed()] == [0.0, 0.0, 0.0]


def test_ranks_are_consumed_in_order() -> None:
    plan = make_plan(NET, WEIGHTS, ranks=[3, 5, 2], include_fc=True)
    assert [(e.layer, e.rank) for e in plan.decomposed()] == [("a", 3), ("b", 4), ("fc", 2)]
    assert by_name(plan)["b"].reason == "given rank 5, made a multiple of group 2"
    assert plan.settings["ranks"] == {"a": 3, "b": 5, "fc": 2}
    tiny = make_plan(NET, WEIGHTS, ranks=[1], except_layers=["a"])
    assert by_name(tiny)["b"].rank == 2
    assert by_name(tiny)["a"].reason == "excepted"


def test_config() -> None:
    plan = make_plan(NET, WEIGHTS, config={"b": 6, "fc": 3}, method="svd")
    assert [(e.layer, e.rank, e.method) for e in plan.decomposed()] == [
        ("b", 6, "svd"),
        ("fc", 3, "svd"),
    ]
    assert by_name(plan)["a"].reason == "not in the config"
    both = make_plan(NET, WEIGHTS, config={"a": 2, "b": 6}, except_layers=["a"])
    assert [e.layer for e in both.decomposed()] == ["b"]


def test_numpy_ranks() -> None:
    plan = make_plan(NET, WEIGHTS, config={"a": np.int64(2)})
    assert parse_plan(plan.to_json()) == plan


def test_options_and_kmeans() -> None:
    plan = make_plan(NET, WEIGHTS, config={"a": 2}, method="svd", options={"balance": "first"})
    assert plan.decomposed()[0].options == {"balance": "first"}
    kmeans = make_plan(NET, WEIGHTS, ranks=[2, 4], method="kmeans")
    assert [e.rank for e in kmeans.decomposed()] == [2, 4]


def test_layers_that_do_not_get_smaller() -> None:
    plan = make_plan(NET, WEIGHTS, ranks=[3, 12], force_whole_if_not_smaller=True)
    entries = by_name(plan)
    assert entries["a"].rank == 3
    assert entries["b"].whole
    assert "saves no multiply-accumulates" in entries["b"].reason


def test_spec() -> None:
    plan = make_plan(parse_net(TEXT), WEIGHTS, config={"a": 2})
    assert [e.layer for e in plan.decomposed()] == ["a"]


BAD: list[tuple[dict, str]] = [
    ({}, "exactly one of energy, ranks and config; given: none"),
    (
        {"energy": 0.9, "ranks": [1]},
        "exactly one of energy, ranks and config; given: energy, ranks",
    ),
    ({"energy": 0.0}, "energy ratio is 0.0; give a number above 0 and up to 1"),
    ({"energy": 0.9, "rule": "energi"}, r"unknown rank rule 'energi'. Did you mean energy\?"),
    ({"energy": 0.9, "method": "pcaa"}, "unknown decomposition 'pcaa'"),
    ({"energy": 0.9, "method": "kmeans"}, "kmeans has no spectrum .* give ranks"),
    ({"energy": 0.9, "except_layers": ["bb"]}, "except_layers: net.prototxt has no layer 'bb'"),
    ({"ranks": [1]}, r"1 ranks are given for 2 layers \(a, b\)"),
    ({"ranks": []}, r"0 ranks are given for 2 layers \(a, b\)"),
    ({"ranks": [1, 0]}, "ranks: b: rank is 0; give a positive integer"),
    ({"ranks": [1, 2.0]}, "ranks: b: rank is 2.0; give a positive integer"),
    ({"ranks": [9, 2]}, r"a \(Convolution\) at net.prototxt:2: rank 9 is above 8"),
    ({"config": {"bb": 1}}, r"config: net.prototxt has no layer 'bb'. Did you mean b\?"),
    ({"config": {"dw": 8}}, r"config: dw \(Convolution\) cannot be decomposed: it is depthwise"),
    ({"config": {"x": 8}}, r"config: x \(Input\) cannot be decomposed: type Input has no weight"),
    ({"config": {"fc": 2}, "method": "kmeans"}, "kmeans serves convolutions only; use pca or svd"),
    (
        {"ranks": [1, 2, 3], "method": "kmeans", "include_fc": True},
        r"fc \(InnerProduct\) at net.prototxt:5: kmeans serves convolutions only",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_plan(NET, WEIGHTS, **arguments)


REFUSED = [
    (layer("c", "x", "num_output: 4 kernel_size: 3", "Deconvolution"), "type Deconvolution has no"),
    (layer("c", "x", "num_output: 4 normalize: true", "InnerProduct"), "normalizes its weights"),
    (
        layer("c", "x", "num_output: 4 kernel_size: 3", more='param { name: "w" }')
        + layer("e", "x", "num_output: 4 kernel_size: 3", more='param { name: "w" }'),
        "its weight 'w' is shared with e",
    ),
    (
        'layer { name: "c" type: "InnerProduct" bottom: "x" top: "x" '
        "inner_product_param { num_output: 4 } }",
        "works in place",
    ),
    (
        layer("c", "x", "num_output: 4 kernel_size: 3", more="include { phase: TRAIN }")
        + layer("c", "x", "num_output: 4 kernel_size: 3 pad: 1", more="include { phase: TEST }"),
        "2 layers of this name with different parameters",
    ),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_layers_that_cannot_be_decomposed(text: str, reason: str) -> None:
    net = parse_text(net_text((1, 4, 8, 8), text), "NetParameter")
    weights = as_weights({n: [np.ones((4, 4, 3, 3)), np.ones(4)] for n in ("c", "e")})
    entry = by_name(make_plan(net, weights, energy=0.9))["c"]
    assert entry.whole
    assert reason in entry.reason


def test_weights_without_the_layer() -> None:
    weights = as_weights({"a": [b.array() for b in WEIGHTS.blobs["a"]]})
    entries = by_name(make_plan(NET, weights, energy=0.9))
    assert not entries["a"].whole
    assert entries["b"].reason == "weights holds no weights for it"


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ([np.ones((8, 4, 3, 3))], r"a \(Convolution\) .* stores 1 blobs for it, the net has 2"),
        ([np.ones((6, 4, 3, 3)), np.ones(8)], r"a weight of shape \(6, 4, 3, 3\), which does not"),
        ([np.full((8, 4, 3, 3), np.nan), np.ones(8)], "holds infinite or undefined values"),
    ],
)
def test_weights_of_another_net(blobs: list[np.ndarray], message: str) -> None:
    with pytest.raises(WeightError, match=message):
        make_plan(NET, as_weights({"a": blobs}), energy=0.9)


def test_mixed_config() -> None:
    config = {
        "a": {"method": "spatial", "rank": 3},
        "b": {"method": "tucker", "rank": [2, 4]},
        "fc": {"method": "svd", "energy": 0.8, "options": {"balance": "first"}},
    }
    plan = make_plan(NET, WEIGHTS, config=config)
    found = [(e.layer, e.method, e.rank) for e in plan.decomposed()]
    assert found[:2] == [("a", "spatial", 3), ("b", "tucker", (2, 4))]
    assert found[2] == ("fc", "svd", rank_by_energy(spectrum("fc"), 0.8))
    assert plan.decomposed()[2].options == {"balance": "first"}
    assert parse_plan(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"method": "spatial"}, "config: a: give exactly one of 'rank' and 'energy'"),
        ({"rank": 2, "energy": 0.5}, "config: a: give exactly one of 'rank' and 'energy'"),
        ({"rank": 2, "ranks": 2}, "config: a: unknown key 'ranks'; known keys are method, rank"),
        ({"method": 3, "rank": 2}, "config: a: 'method' wants a text, found 3"),
        ({"method": "spatil", "rank": 2}, "config: a: unknown decomposition 'spatil'. Did you"),
        ({"rank": 2, "options": 3}, "config: a: 'options' wants an object, found 3"),
        ({"energy": "high"}, "config: a: 'energy' wants a number, found \"high\""),
        ([2, 3], r"pca has one rank, found \[2, 3\]"),
        ("8", 'config: a: rank is "8"; give a positive integer'),
    ],
)
def test_bad_wishes(wish: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_plan(NET, WEIGHTS, config={"a": wish})


def test_methods_leave_what_they_cannot_serve() -> None:
    entries = by_name(make_plan(NET, WEIGHTS, energy=0.8, method="spatial", include_fc=True))
    assert [name for name, entry in entries.items() if not entry.whole] == ["a", "dw", "b"]
    assert "serves convolutions only" in entries["fc"].reason


def test_alignment_to_a_block() -> None:
    entries = by_name(make_plan(NET, WEIGHTS, config={"a": 3, "b": 4}, block=4))
    assert (entries["a"].rank, entries["b"].rank) == (4, 8)
    assert entries["a"].reason == "given rank; rank 3 rounded up to the block of 4"
    plan = make_plan(NET, WEIGHTS, energy=0.5, block=100)
    assert [e.rank for e in plan.decomposed()] == [8, 12]


@pytest.mark.parametrize("rule", ["energy", "norm", "error", "stable", "evbmf"])
def test_every_rule_for_two_ranks(rule: str) -> None:
    entries = by_name(make_plan(NET, WEIGHTS, energy=0.7, method="tucker", rule=rule))
    assert len(entries["a"].rank) == 2
    if rule in ("energy", "norm", "error"):
        least = {"energy": 0.7, "norm": 0.49, "error": 0.51}[rule]
        assert entries["a"].energy >= least
