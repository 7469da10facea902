"""Zero filters, channels and groups out of the tensors: what goes, what stays, and why."""

from __future__ import annotations

import re

import numpy as np
import pytest

from caffe_bridge.compress.rewrite import as_weights_of
from caffe_bridge.compress.sparse import shrink as shrinking
from caffe_bridge.compress.sparse.shrink import largest_difference, shrink, write_net
from caffe_bridge.errors import PlanError, WeightError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from caffe_bridge.onnx_export.verify import verify
from caffe_bridge.schema import Weights, format_text, load_weights, parse_text
from tests.compress.sparse_nets import conv, fc, head, layer, masked, shrunk

POOL = "pooling_param { pool: %s kernel_size: 2 stride: 2 pad: %d }"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pad", [0, 1])
def test_a_filter_goes_unless_its_constant_meets_padding(bias: bool, pad: int) -> None:
    made, left = shrunk(
        head() + conv("a", "x", 6) + conv("b", "a", 5, pad=pad), {"a": [1, 4]}, bias
    )
    if bias and pad:
        assert left == {"a": (6, 4), "b": (5, 6)}
        assert made.layers[0].kept == {"b pads, where a constant cannot be folded exactly": 2}
    else:
        assert left == {"a": (4, 4), "b": (5, 4)}
        assert made.layers[0].kept == {}
    assert made.blobs["b"][0].shape == (5, left["b"][1], 3, 3)
    assert made.weights == (6 * 36 + 5 * 54, left["a"][0] * 36 + 5 * left["b"][1] * 9)


def test_constants_go_through_everything_that_treats_channels_one_by_one() -> None:
    text = (
        head() + conv("a", "x", 6, "kernel_size: 2")
        + layer("bn", "BatchNorm", "a", top="a")
        + layer("scale", "Scale", "a", "scale_param { bias_term: true }", top="a")
        + layer("prelu", "PReLU", "a", top="a")
        + layer("shift", "Bias", "a", top="a")
        + layer("max", "Pooling", "a", POOL % ("MAX", 0))
        + layer("drop", "Dropout", "max", top="max")
        + layer("tanh", "TanH", "max") + layer("power", "Power", "tanh", "power_param { shift: 2 }")
        + layer("ave", "Pooling", "power", POOL % ("AVE", 0))
        + layer("flat", "Flatten", "ave") + fc("f", "flat", 7) + layer("relu", "ReLU", "f", top="f")
        + fc("g", "f", 3, "transpose: true")
    )  # fmt: skip
    made, left = shrunk(text, {"a": [0, 5], "f": [2]})
    assert left == {"a": (4, 4), "f": (6, 4 * 4), "g": (3, 6)}
    assert [len(b) for b in made.blobs["bn"]] == [4, 4, 1]
    assert [len(b) for b in made.blobs["scale"]] == [4, 4]
    assert len(made.blobs["prelu"][0]) == len(made.blobs["shift"][0]) == 4
    assert made.blobs["g"][0].shape == (6, 3)
    verify(Net(made.net, weights=as_weights_of(made.blobs))).require("the smaller net")


@pytest.mark.parametrize(("pool", "bias", "left"), [
    ("MAX", True, 4), ("AVE", True, 6), ("AVE", False, 4), ("STOCHASTIC", False, 6),
])  # fmt: skip
def test_pooling_with_pads(pool: str, bias: bool, left: int) -> None:
    text = head() + conv("a", "x", 6, "kernel_size: 2") + layer("r", "ReLU", "a", top="a") + (
        layer("p", "Pooling", "a", POOL % (pool, pool != "STOCHASTIC")) + fc("f", "p", 3)
    )  # fmt: skip
    assert shrunk(text, {"a": [0, 5]}, bias)[1]["a"] == (left, 4)


def test_a_layer_without_bias_gets_one_for_the_constant() -> None:
    text = head() + conv("a", "x", 6) + conv("b", "a", 5, "kernel_size: 3 bias_term: false")
    made, _ = shrunk(text, {"a": [3]})
    assert len(made.blobs["b"]) == 2
    assert made.net.layer[2].convolution_param.bias_term
    none, _ = shrunk(text, {"a": [3]}, bias=False)
    assert len(none.blobs["b"]) == 1


def test_filters_that_nobody_reads_go() -> None:
    text = head() + conv("a", "x", 6) + layer("r", "ReLU", "a", top="a") + fc("f", "a", 3)
    record, weights = masked(text)
    blob = weights.blobs["f"][0]
    assert blob is not None
    values = blob.array().reshape(3, 6, 49)
    values[:, [1, 2]] = 0
    made = shrink(record, weights)
    assert made.layers[0].filters == (6, 4) and made.layers[1].inputs == (6, 4)
    assert made.layers[1].weights == (3 * 294, 3 * 4 * 49)


def test_constants_pass_through_filters_that_see_only_constants() -> None:
    """All inputs of filter 0 of b are constant: it is itself, and goes into c."""
    text = head() + conv("a", "x", 3) + conv("b", "a", 4) + conv("c", "b", 2)
    record, weights = masked(text, {"a": [0, 1]})
    blob = weights.blobs["b"][0]
    assert blob is not None
    blob.array()[0, 2] = 0
    made = shrink(record, weights)
    assert [row.filters[1] for row in made.layers] == [1, 3, 2]
    assert made.worst < 1e-5


def test_sums_lose_what_is_constant_in_all_branches() -> None:
    text = (
        head() + conv("a", "x", 6) + conv("b", "x", 6)
        + layer("sum", "Eltwise", "a b") + layer("relu", "ReLU", "sum", top="sum")
        + conv("c", "sum", 3)
    )  # fmt: skip
    made, left = shrunk(text, {"a": [0, 1, 2], "b": [1, 2, 3]})
    assert left == {"a": (4, 4), "b": (4, 4), "c": (3, 4)}
    assert made.layers[0].kept == {"c reads it": 1}


@pytest.mark.parametrize(("operation", "left"), [("MAX", 4), ("PROD", 3)])
def test_products_and_maxima(operation: str, left: int) -> None:
    text = head() + conv("a", "x", 6) + conv("b", "x", 6) + (
        layer("e", "Eltwise", "a b", f"eltwise_param {{ operation: {operation} }}")
        + conv("c", "e", 3)
    )  # fmt: skip
    got = shrunk(text, {"a": [0, 1], "b": [0, 1, 2]}, bias=False)[1]
    assert got == {"a": (left, 4), "b": (left, 4), "c": (3, left)}


def test_concat_and_slice() -> None:
    text = (
        head() + conv("a", "x", 4) + conv("b", "x", 6) + layer("j", "Concat", "a b")
        + layer("s", "Slice", "j", "slice_param { slice_point: 3 }", top="s1 s2")
        + conv("c", "s1", 3) + conv("d", "s2", 3)
    )  # fmt: skip
    made, left = shrunk(text, {"a": [0, 3], "b": [5]})
    assert left == {"a": (2, 4), "b": (5, 4), "c": (3, 2), "d": (3, 5)}
    (cut,) = [x for x in made.net.layer if x.type == "Slice"]
    assert list(cut.slice_param.slice_point) == [2]


def test_a_slice_keeps_a_channel_in_each_part() -> None:
    text = head() + conv("a", "x", 4) + layer("s", "Slice", "a", top="p q") + (
        conv("c", "p", 3) + conv("d", "q", 3)
    )  # fmt: skip
    assert shrunk(text, {"a": [0, 1, 3]})[1] == {"a": (2, 4), "c": (3, 1), "d": (3, 1)}


def test_whole_groups_go_and_the_others_stay_equal() -> None:
    text = head() + conv("a", "x", 6) + conv("b", "a", 9, "kernel_size: 3 group: 3") + (
        conv("c", "b", 2)
    )  # fmt: skip
    whole, left = shrunk(text, {"a": [2, 3], "b": [3, 4, 5]})
    assert left == {"a": (4, 4), "b": (6, 4), "c": (2, 6)}
    assert next(x for x in whole.net.layer if x.name == "b").convolution_param.group == 2
    equal, left = shrunk(text, {"a": [0, 2, 4], "b": [0, 1, 3, 6]})
    assert left == {"a": (3, 4), "b": (6, 3), "c": (2, 6)}
    assert equal.layers[1].kept == {"the groups of b must be equal": 1}
    assert equal.blobs["b"][0].shape == (6, 1, 3, 3)


@pytest.mark.parametrize("kind", ["Convolution", "DepthwiseConvolution"])
def test_depthwise(kind: str) -> None:
    group = "group: 6" if kind == "Convolution" else ""
    text = head() + conv("a", "x", 6) + layer("r", "ReLU", "a", top="a") + (
        conv("b", "a", 12, f"kernel_size: 3 {group}").replace('"Convolution"', f'"{kind}"')
        + conv("c", "b", 3, "kernel_size: 1")
    )  # fmt: skip
    assert shrunk(text, {"b": [0, 1, 4]})[1] == {"a": (5, 4), "b": (10, 5), "c": (3, 10)}
    assert shrunk(text, {"a": [2, 5]})[1] == {"a": (4, 4), "b": (8, 4), "c": (3, 8)}


@pytest.mark.parametrize("group", [1, 2])
def test_deconvolution(group: int) -> None:
    more = f"kernel_size: 3 stride: 2 group: {group}"
    text = head() + conv("a", "x", 4) + (
        conv("b", "a", 6, more).replace("Convolution", "Deconvolution", 1) + conv("c", "b", 3)
    )  # fmt: skip
    record, weights = masked(text, {"a": [0, 2]}, bias=False)
    blob = weights.blobs["b"][0]
    assert blob is not None
    assert blob.shape == (4, 6 // group, 3, 3)
    blob.array()[:, 1] = 0
    made = shrink(record, weights)
    rows = {row.layer: (row.filters[1], row.inputs[1]) for row in made.layers}
    assert rows == {"a": (2, 4), "b": (6 - group, 2), "c": (3, 6 - group)}
    constant, left = shrunk(text, {"a": [0]})
    assert left["a"] == (4, 4)
    assert "b pads" in next(iter(constant.layers[0].kept))


def test_what_mixes_channels_is_a_wall() -> None:
    text = head() + conv("a", "x", 6) + layer("n", "LRN", "a") + conv("b", "n", 3)
    made, left = shrunk(text, {"a": [1]}, bias=False)
    assert left == {"a": (6, 4), "b": (3, 6)}
    assert made.layers[0].kept == {"n (LRN) does not treat channels one by one": 1}


def test_outputs_and_layers_of_other_phases_keep_their_channels() -> None:
    text = head() + conv("a", "x", 6) + conv("b", "a", 3) + (
        layer("look", "Power", "a", "include { phase: TRAIN }")
    )  # fmt: skip
    made, left = shrunk(text, {"a": [1], "b": [0]})
    assert left == {"a": (6, 4), "b": (3, 6)}
    assert made.layers[0].kept == {"look (Power) of another phase reads it": 1}
    assert made.layers[1].kept == {"'b' is an output of the net": 1}


def test_shared_weights_stay() -> None:
    param = 'param { name: "w" } param { name: "v" } convolution_param'
    text = head(4) + conv("a", "x", 4, pad=1).replace("convolution_param", param) + (
        conv("b", "a", 4, pad=1).replace("convolution_param", param) + conv("c", "b", 2)
    )  # fmt: skip
    assert shrunk(text, {"a": [1], "b": [1]}, bias=False)[1] == {"c": (2, 4)}


def test_a_dead_layer_keeps_one_filter() -> None:
    text = head() + conv("a", "x", 4) + conv("b", "a", 3)
    assert shrunk(text, {"a": [0, 1, 2, 3]})[1] == {"a": (1, 4), "b": (3, 1)}


def test_a_low_rank_pair_loses_ranks() -> None:
    text = head() + conv("c_lowrank", "x", 8, "kernel_size: 3 bias_term: false", pad=1) + (
        conv("c_linear", "c_lowrank", 6, "kernel_size: 1") + layer("r", "ReLU", "c_linear")
    )  # fmt: skip
    record, weights = masked(text, {"c_lowrank": [0, 3, 7]})
    made = shrink(record, weights)
    assert [row.filters[1] for row in made.layers] == [5, 6]
    before = export(Net(parse_net(format_text(record)), weights=weights)).ByteSize()
    after = export(Net(parse_net(format_text(made.net)), weights=as_weights_of(made.blobs)))
    assert after.ByteSize() < before


def test_files_load(tmp_path) -> None:  # type: ignore[no-untyped-def]
    text = head() + conv("a", "x", 6) + conv("b", "a", 3)
    made, _ = shrunk(text, {"a": [1]})
    for ending in (".caffemodel", ".caffemodel.h5"):
        net, weights = write_net(made.net, made.blobs, tmp_path / "s.prototxt",
                                 tmp_path / f"s{ending}")  # fmt: skip
        loaded = Net(net, weights=weights)
        assert not loaded.missing
        np.testing.assert_array_equal(loaded.layer("a").blobs[0].detach(), made.blobs["a"][0])
    assert load_weights(tmp_path / "s.caffemodel").types["a"] == "Convolution"
    assert re.search(r"num_output: 5", (tmp_path / "s.prototxt").read_text())


def test_refusals() -> None:
    record, weights = masked(head() + conv("a", "x", 6) + conv("b", "a", 3))
    with pytest.raises(PlanError, match="holds no weights for b"):
        shrink(record, Weights("w", {"a": weights.blobs["a"]}))
    other = parse_text(head() + conv("a", "x", 7), "NetParameter")
    with pytest.raises(WeightError, match="blob 0"):
        shrink(other, weights)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_only_one_net_cannot_compute_is_a_difference(
    bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = head() + conv("a", "x", 3)
    record, weights = masked(text, {"a": [1]})
    broken = {"a": [b.array().copy() for b in weights.blobs["a"] if b is not None]}
    broken["a"][0][0] = bad
    nets = [Net(parse_net(text), weights=w) for w in (weights, as_weights_of(broken))]
    assert largest_difference(*nets) == largest_difference(*nets[::-1]) == np.inf
    assert largest_difference(nets[1], nets[1]) == 0
    monkeypatch.setattr(shrinking, "largest_difference", lambda *_: bad)
    with pytest.raises(PlanError, match="nothing is written"):
        shrink(record, weights)


@pytest.mark.parametrize(
    ("window", "zero", "kernel", "pad"),
    [
        ("kernel_size: 5 pad: 2", [(0, 0), (0, 4), (1, 0), (1, 4)], (3, 3), [1]),
        ("kernel_size: 5 pad: 1", [(0, 0), (0, 1), (0, 3), (0, 4)], (3, 5), [0, 1]),
        ("kernel_size: 3 pad: 2 dilation: 2 stride: 2", [(1, 0), (1, 2)], (3, 1), [2, 0]),
        ("kernel_h: 3 kernel_w: 5 pad_h: 1 pad_w: 0", [(0, 0), (0, 2), (1, 0), (1, 4)], (1, 5), []),
        ("kernel_size: 3 pad: 1", [(0, 0)], None, []),
        ("kernel_size: 3 pad: 0", [(0, 0), (0, 2)], None, []),
    ],
)
def test_kernels_lose_their_zero_borders(
    window: str, zero: list[tuple[int, int]], kernel: tuple[int, int] | None, pad: list[int]
) -> None:
    first = conv("a", "x", 6, window).replace(" pad: 0 weight", " weight")
    text = head() + first + conv("b", "a", 3)
    record, weights = masked(text)
    blob = weights.blobs["a"][0]
    assert blob is not None
    values = blob.array()
    for axis, place in zero:
        values.swapaxes(2, 2 + axis)[:, :, place] = 0
    made = shrink(record, weights)
    assert made.worst < 1e-5
    row = made.layers[0]
    if kernel is None:
        assert row.kernel is None and made.blobs["a"][0].shape == values.shape
        return
    assert row.kernel is not None and row.kernel[1] == kernel
    assert made.blobs["a"][0].shape == (6, 4, *kernel)
    assert row.weights == (values.size, 24 * kernel[0] * kernel[1])
    assert list(made.net.layer[1].convolution_param.pad) == pad
