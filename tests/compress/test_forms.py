"""Decompositions into other layers than a pair of filters and their combination."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.compress import (
    LayerPlan,
    Plan,
    decomposition,
    make_plan,
    rewrite,
    write_decomposed,
)
from caffe_bridge.compress.decompose.cp import cp
from caffe_bridge.compress.decompose.tucker import tucker2
from caffe_bridge.compress.latency import forms_of
from caffe_bridge.compress.target import Target, find_targets
from caffe_bridge.errors import PlanError, WeightError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.schema import format_text
from tests.compress.checks import (
    CONV,
    FC,
    GAUSS,
    as_weights,
    check_decomposition,
    filled,
    net_text,
)
from tests.compress.test_decompose import CONVS

RNG = np.random.default_rng(5)
#: Alternating methods find a better fit with every rank on these nets, up to this much.
SLACK = {"tucker": 1e-3, "cp": 0.02}
#: Geometries that methods refuse, with the reason.
ONE = {"one_by_one", "group_few_inputs"}
REFUSED = {
    "weight_svd": {},
    "tucker": dict.fromkeys(ONE, "three layers of a 1x1 kernel where pca makes two"),
    "spatial": dict.fromkeys(ONE, "separates nothing in a 1x1 kernel"),
}
for _axes, _case in ((1, "one_axis"), (3, "three_axes")):
    REFUSED["spatial"][_case] = f"needs two spatial axes, found {_axes}"
REFUSED["cp"] = REFUSED["spatial_h"] = REFUSED["spatial"]


def target_of(text: str) -> Target:
    return next(t for t in find_targets(*filled(text)).values() if isinstance(t, Target))


@pytest.mark.parametrize("method", REFUSED)
@pytest.mark.parametrize("case", CONVS)
def test_convolution(case: str, method: str) -> None:
    param, shape = CONVS[case]
    text = net_text(shape, CONV.format(f"{param} {GAUSS}"))
    if case in REFUSED[method]:
        assert REFUSED[method][case] in decomposition(method).refusal(target_of(text))
        return
    check_decomposition(text, shape, method, slack=SLACK.get(method, 1e-5))


@pytest.mark.parametrize("method", ["spatial", "spatial_h"])
@pytest.mark.parametrize("stride", [1, 2])
def test_spatial_of_a_depthwise_layer(stride: int, method: str) -> None:
    shape = (2, 4, 6, 7)
    param = f"num_output: 4 kernel_size: 3 group: 4 pad: 1 stride: {stride}"
    check_decomposition(net_text(shape, CONV.format(f"{param} {GAUSS}")), shape, method)


@pytest.mark.parametrize("method", ["pca", "svd", "kmeans", "weight_svd", "tucker", "cp"])
def test_depthwise_layers_are_refused(method: str) -> None:
    text = net_text((1, 4, 5, 5), CONV.format(f"num_output: 4 kernel_size: 3 group: 4 {GAUSS}"))
    record, weights = filled(text)
    with pytest.raises(PlanError, match="it is depthwise"):
        rewrite(
            record, weights, Plan([LayerPlan("c", method, (4, 4) if method == "tucker" else 4)])
        )
    assert make_plan(record, weights, ranks=[], method=method).layers[0].whole


@pytest.mark.parametrize("method", ["kmeans", "weight_svd", "spatial", "spatial_h", "tucker", "cp"])
def test_fully_connected_layers_are_refused(method: str) -> None:
    target = target_of(net_text((2, 6), FC.format(f"num_output: 4 {GAUSS}")))
    assert decomposition(method).refusal(target)


@pytest.mark.parametrize("balance", ["first", "both", "second"])
def test_balance_of_weight_svd(balance: str) -> None:
    shape = (1, 3, 5, 5)
    text = net_text(shape, CONV.format(f"num_output: 6 kernel_size: 3 {GAUSS}"))
    check_decomposition(text, shape, "weight_svd", {"balance": balance})


def test_two_bottoms() -> None:
    shape = (2, 3, 5, 5)
    conv = (
        'layer { name: "c" type: "Convolution" bottom: "x" bottom: "r" top: "a" top: "b" '
        f"convolution_param {{ num_output: 4 kernel_size: 3 {GAUSS} }} }}"
    )
    relu = 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" }'
    for method in REFUSED:
        check_decomposition(net_text(shape, relu, conv), shape, method, slack=0.02)


def test_records_of_spatial() -> None:
    more = "param { lr_mult: 1 force_mult: 1 } param { lr_mult: 2 }"
    conv = CONV.format(f"num_output: 6 kernel_size: 5 stride: 2 pad: 2 dilation: 3 {GAUSS}")
    record, weights = filled(
        net_text((1, 3, 20, 20), conv.replace("convolution", more + " convolution"))
    )
    net, blobs = rewrite(record, weights, Plan([LayerPlan("c", "spatial", 4)]))
    first, second = net.layer[1], net.layer[2]
    assert [first.name, second.name] == ["c_v", "c_h"]
    assert (list(first.top), list(second.bottom), list(second.top)) == (["c_v"], ["c_v"], ["c"])
    for layer, axis, other in ((first, "h", "w"), (second, "w", "h")):
        param = layer.convolution_param
        sizes = [(getattr(param, f"{n}_{axis}"), getattr(param, f"{n}_{other}"))
                 for n in ("kernel", "stride", "pad")]  # fmt: skip
        assert sizes == [(5, 1), (2, 1), (2, 0)]
        assert not param.has("kernel_size")
        assert not param.has("stride")
    assert list(first.convolution_param.dilation) == [3, 1]
    assert list(second.convolution_param.dilation) == [1, 3]
    assert not first.convolution_param.bias_term
    assert [len(first.param), len(second.param)] == [1, 2]
    assert [first.param[0].force_mult, second.param[0].force_mult] == [1, 0]
    assert [a.shape for a in blobs["c_v"]] == [(4, 3, 5, 1)]
    assert [a.shape for a in blobs["c_h"]] == [(6, 4, 1, 5), (6,)]


def test_names_of_tucker_and_cp() -> None:
    record, weights = filled(
        net_text((1, 8, 6, 6), CONV.format(f"num_output: 12 kernel_size: 3 group: 2 {GAUSS}"))
    )
    net, blobs = rewrite(record, weights, Plan([LayerPlan("c", "tucker", (4, 6))]))
    assert [layer.name for layer in net.layer[1:]] == ["c_in", "c_core", "c_out"]
    assert [blobs[layer.name][0].shape for layer in net.layer[1:]] == [
        (4, 4, 1, 1), (6, 2, 3, 3), (12, 3, 1, 1),
    ]  # fmt: skip
    net, blobs = rewrite(record, weights, Plan([LayerPlan("c", "cp", 10)]))
    assert [layer.name for layer in net.layer[1:]] == ["c_in", "c_v", "c_h", "c_out"]
    assert [int(layer.convolution_param.group) for layer in net.layer[1:]] == [2, 10, 10, 2]
    assert "relu" not in format_text(net)
    assert [blobs[layer.name][0].shape for layer in net.layer[1:]] == [
        (10, 4, 1, 1), (10, 1, 3, 1), (10, 1, 1, 3), (12, 5, 1, 1),
    ]  # fmt: skip


def test_tucker_is_orthonormal_and_within_its_bound() -> None:
    weight = RNG.standard_normal((12, 8, 3, 3))
    tails = []
    for axis, rank in ((0, 6), (1, 4)):
        unfolded = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
        tails.append((np.linalg.svd(unfolded, compute_uv=False)[rank:] ** 2).sum())
    left, core, right = tucker2(weight, 4, 6)
    for factor in (left, right):
        np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=1e-10)
    error = (weight**2).sum() - (core**2).sum()
    assert max(tails) <= error <= sum(tails)
    made = np.einsum("oihw,no,ci->nchw", core, left, right)
    assert ((weight - made) ** 2).sum() == pytest.approx(error)


def test_tucker_finds_its_ranks() -> None:
    weight = np.einsum(
        "oihw,no,ci->nchw",
        *(RNG.standard_normal(s) for s in ((5, 3, 3, 3), (12, 5), (8, 3))),
    )
    made = decomposition("tucker")
    assert made.choose(weight, 1, 1 - 1e-9, "energy") == (3, 5)
    assert made.predicted_error(weight, (3, 5)) < 1e-7
    ranks = made.choose(RNG.standard_normal((12, 8, 3, 3)), 1, 0.8, "energy")
    assert made.predicted_error(RNG.standard_normal((12, 8, 3, 3)), ranks) < np.sqrt(0.3)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [((1, 10), "rank_out 10 is above rank_in times the 9 positions of the kernel; with rank_in 1 "
               "use rank_out 9 or less"),
     ((40, 4), "rank_in 40 is above rank_out times the 9 .* with rank_out 4 use rank_in 36")],
)  # fmt: skip
def test_tucker_refuses_a_rank_that_the_other_leaves_no_room_for(
    ranks: tuple[int, int], message: str, tmp_path: Path
) -> None:
    record, weights = filled(
        net_text((1, 48, 6, 6), CONV.format(f"num_output: 48 kernel_size: 3 {GAUSS}"))
    )
    with pytest.raises(PlanError, match=message):
        rewrite(record, weights, Plan([LayerPlan("c", "tucker", ranks)]))
    with pytest.raises(PlanError, match=message):
        make_plan(record, weights, config={"c": {"method": "tucker", "rank": list(ranks)}})
    fitting = Plan([LayerPlan("c", "tucker", (min(ranks[0], 36), min(ranks[1], 9)))])
    made, blobs = rewrite(record, weights, fitting)
    assert Net(parse_net(format_text(made)), weights=as_weights(blobs)).missing == []
    blobs["c_core"][0] = blobs["c_core"][0][:-1]
    with pytest.raises(WeightError, match="c_core"):
        write_decomposed(made, blobs, fitting, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tucker_by_a_rule_and_by_time_has_ranks_that_go_together() -> None:
    # Four channels of equal energy look like noise to evbmf, the twenty filters in them do not.
    random = np.random.default_rng(8)
    mixed = random.standard_normal((96, 20)) @ random.standard_normal((20, 36))
    weight = mixed.reshape(96, 4, 3, 3) + 0.01 * random.standard_normal((96, 4, 3, 3))
    made = decomposition("tucker")
    inner, out = made.choose(weight, 1, 1.0, "evbmf")
    assert inner < 3 and out == 9 * inner
    conv = CONV.format(f"num_output: 256 kernel_size: 3 {GAUSS}")
    target = target_of(net_text((1, 3, 9, 9), conv))
    pairs = [form.rank for form in forms_of(target, 1, ["tucker"])["tucker"]]
    assert pairs
    # The core is [out, in x 3 x 3]: neither side has a rank above the other's size.
    assert all(out <= 9 * inner and inner <= 9 * out for inner, out in pairs)


def test_cp_recovers_components() -> None:
    factors = [RNG.standard_normal((size, 3)) for size in (10, 6, 3, 3)]
    weight = np.einsum("nr,cr,ir,jr->ncij", *factors)
    found = cp(weight, 3)
    made = np.einsum("nr,cr,ir,jr->ncij", *found)
    assert np.abs(weight - made).max() < 1e-3 * np.abs(weight).max()
    for one, other in zip(found, cp(weight, 3), strict=True):
        np.testing.assert_array_equal(one, other)


def test_cp_refuses_degenerate_fits() -> None:
    # The classical tensor of border rank 2 and rank 3: rank 2 comes as near as you like, by two
    # components that grow without bound and cancel.
    a, b = np.eye(2)
    weight = sum(np.einsum("n,c,i->nci", *x) for x in ((a, a, b), (a, b, a), (b, a, a)))
    weight = weight[..., None]
    found = cp(weight, 2)
    norms = np.prod([np.linalg.norm(f, axis=0) for f in found], axis=0)
    assert (norms**2).sum() <= 10 * (weight**2).sum()


@pytest.mark.parametrize("method", ["cp", "kmeans", "tucker"])
def test_methods_without_one_spectrum(method: str) -> None:
    with pytest.raises(PlanError, match="spectrum"):
        decomposition(method).spectrum(RNG.standard_normal((4, 3, 3, 3)))


def test_ranks_of_the_wrong_kind() -> None:
    target = target_of(net_text((1, 3, 5, 5), CONV.format(f"num_output: 6 kernel_size: 3 {GAUSS}")))
    with pytest.raises(PlanError, match=r"pca has one rank, found \[2, 3\]"):
        decomposition("pca").ranks(target, (2, 3))
    with pytest.raises(PlanError, match=r"tucker has two ranks, \[in, out\]; found \[2\]"):
        decomposition("tucker").ranks(target, (2,))
    assert decomposition("tucker").ranks(target, 5) == (3, 5)


@pytest.mark.parametrize("method", REFUSED)
def test_zero_weights(method: str) -> None:
    made = decomposition(method)
    weight = np.zeros((4, 6, 3, 3))
    assert made.predicted_error(weight, made.max_rank(weight)) == 0.0
    assert made.predicted_error(weight, (1, 1) if method == "tucker" else 1) == 0.0
