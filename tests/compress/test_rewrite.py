from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.compress import LayerPlan, Plan, decompose_net, load_plan, rewrite
from caffe_bridge.errors import PlanError, SchemaError, WeightError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net, stored_arrays
from caffe_bridge.schema import (
    Record,
    StoredBlob,
    Weights,
    format_text,
    load_weights,
    parse_text,
    save_weights,
)
from tests.compress.checks import (
    CLOSE,
    CONV,
    GAUSS,
    as_weights,
    filled,
    net_text,
    outputs,
    relative,
)

SHAPE = (2, 4, 7, 7)
FULL = f"""
layer {{
  name: "conv" type: "Convolution" bottom: "x" top: "y" propagate_down: false loss_weight: 0.5
  param {{ name: "w" lr_mult: 1 decay_mult: 2 force_mult: 1 }} param {{ lr_mult: 2 decay_mult: 0 }}
  include {{ phase: TEST }} include {{ stage: "s" }} custom_field: 7
  convolution_param {{
    num_output: 6 group: 2 pad_h: 1 pad_w: 0 kernel_h: 3 kernel_w: 1 stride_h: 2 stride_w: 1
    dilation: 1 relu: true engine: CAFFE {GAUSS}
  }}
}}
layer {{ name: "relu" type: "ReLU" bottom: "y" top: "y" }}
layer {{ name: "fc" type: "InnerProduct" bottom: "y" top: "fc"
  param {{ force_mult: 1 }} inner_product_param {{ num_output: 3 {GAUSS} }} }}
"""


def net_and_weights(text: str) -> tuple[Record, Weights]:
    return filled(net_text(SHAPE, text))


def layers(record: Record) -> dict[str, Record]:
    return {layer.name: layer for layer in record.layer}


def test_fields_of_the_two_layers() -> None:
    record, weights = net_and_weights(FULL)
    before = format_text(record)
    net, blobs = rewrite(record, weights, Plan([LayerPlan("conv", "pca", 4)]))
    assert format_text(record) == before
    assert [layer.name for layer in net.layer] == ["x", "conv_lowrank", "conv_linear", "relu", "fc"]
    lowrank, linear = net.layer[1], net.layer[2]
    assert (list(lowrank.bottom), list(lowrank.top)) == (["x"], ["y_lowrank"])
    assert (list(linear.bottom), list(linear.top)) == (["y_lowrank"], ["y"])
    given, original = lowrank.convolution_param, record.layer[1].convolution_param
    assert given.num_output == 4
    for name in ("group", "pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h", "stride_w"):
        assert getattr(given, name) == getattr(original, name)
    assert (list(given.dilation), given.engine, given.has("relu")) == ([1], "CAFFE", False)
    assert not lowrank.convolution_param.bias_term
    assert not lowrank.convolution_param.has("bias_filler")
    assert linear.convolution_param.bias_term
    assert linear.convolution_param.relu
    assert list(linear.convolution_param.kernel_size) == [1]
    for name in ("stride", "pad", "dilation", "kernel_h", "pad_h", "pad_w", "stride_w"):
        assert not linear.convolution_param.has(name)
    assert (linear.convolution_param.num_output, linear.convolution_param.group) == (6, 2)
    assert [p.force_mult for p in lowrank.param] == [1.0]
    assert [(p.lr_mult, p.decay_mult, p.force_mult) for p in linear.param] == [(1, 2, 0), (2, 0, 0)]
    assert [p.name for p in (*lowrank.param, *linear.param)] == ["w", "", ""]
    assert (lowrank.has("propagate_down"), linear.has("propagate_down")) == (True, False)
    assert (lowrank.has("loss_weight"), linear.has("loss_weight")) == (False, True)
    for new in (lowrank, linear):
        assert list(new.include) == list(record.layer[1].include)
        assert "custom_field: 7" in format_text(new)
    assert [a.shape for a in blobs["conv_lowrank"]] == [(4, 2, 3, 1)]
    assert [a.shape for a in blobs["conv_linear"]] == [(6, 2, 1, 1), (6,)]


def test_other_layers_are_untouched() -> None:
    record, weights = net_and_weights(FULL)
    plan = Plan([LayerPlan("conv", "pca", 2), LayerPlan("fc", "whole")])
    net, blobs = rewrite(record, weights, plan)
    for name in ("x", "relu", "fc"):
        assert layers(net)[name] == layers(record)[name]
    for one, other in zip(blobs["fc"], weights.blobs["fc"], strict=True):
        np.testing.assert_array_equal(one, other.array())
    assert list(blobs) == ["conv_lowrank", "conv_linear", "fc"]
    same, kept = rewrite(record, weights, Plan([]))
    assert format_text(same) == format_text(record)
    assert list(kept) == ["conv", "fc"]


def test_inner_product_fields() -> None:
    record, weights = net_and_weights(FULL)
    net, blobs = rewrite(record, weights, Plan([LayerPlan("fc", "svd", 2)]))
    lowrank, linear = layers(net)["fc_lowrank"], layers(net)["fc_linear"]
    assert (lowrank.inner_product_param.num_output, linear.inner_product_param.num_output) == (2, 3)
    assert (list(lowrank.top), list(linear.bottom)) == (["fc_lowrank"], ["fc_lowrank"])
    assert (len(lowrank.param), len(linear.param)) == (1, 1)
    assert linear.param[0].force_mult == 0
    assert [a.shape for a in blobs["fc_linear"]] == [(3, 2), (3,)]


TWINS = "".join(
    f"""layer {{ name: "c" type: "Convolution" bottom: "x" top: "{top}"
    param {{ name: "w" }} include {{ phase: {phase} }}
    convolution_param {{ num_output: 6 kernel_size: 3 {GAUSS} }} }}"""
    for top, phase in (("a", "TRAIN"), ("b", "TEST"))
)


def test_layers_of_one_name_for_both_phases() -> None:
    record, weights = net_and_weights(TWINS)
    net, blobs = rewrite(record, weights, Plan([LayerPlan("c", "pca", 6)]))
    tops = [list(layer.top) for layer in net.layer]
    assert tops == [["x"], ["a_lowrank"], ["a"], ["b_lowrank"], ["b"]]
    assert list(blobs) == ["c_lowrank", "c_linear"]
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    for phase, top in (("TRAIN", "a"), ("TEST", "b")):
        wanted = outputs(format_text(record), weights, x, phase)[top]
        found = outputs(format_text(net), as_weights(blobs), x, phase)[top]
        assert relative(found, wanted) < CLOSE


def test_whole_net_at_full_rank() -> None:
    record, weights = net_and_weights(FULL.replace("relu: true", ""))
    plan = Plan([LayerPlan("conv", "pca", 4), LayerPlan("fc", "svd", 3)])
    full = Plan([LayerPlan("conv", "kmeans", 6), LayerPlan("fc", "svd", 3)])
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    wanted = outputs(format_text(record), weights, x)
    errors = []
    for one in (plan, full):
        net, blobs = rewrite(record, weights, one)
        found = outputs(format_text(net), as_weights(blobs), x)
        errors.append(relative(found["fc"], wanted["fc"]))
    assert errors[0] > 1e-3 > CLOSE > errors[1]


def test_double_weights_stay_double() -> None:
    record, weights = net_and_weights(CONV.format(f"num_output: 4 kernel_size: 3 {GAUSS}"))
    doubles = as_weights({"c": [b.array().astype(np.float64) for b in weights.blobs["c"]]})
    halves = as_weights({"c": [b.array().astype(np.float16) for b in weights.blobs["c"]]})
    plan = Plan([LayerPlan("c", "pca", 2)])
    for given, kind in ((weights, np.float32), (doubles, np.float64), (halves, np.float32)):
        blobs = rewrite(record, given, plan)[1]
        assert {a.dtype for b in blobs.values() for a in b} == {np.dtype(kind)}


def test_old_four_number_shapes() -> None:
    record, weights = net_and_weights(FULL.replace("relu: true", ""))
    legacy = {}
    for name, stored in weights.blobs.items():
        arrays = [blob.array() for blob in stored]
        legacy[name] = [StoredBlob((1,) * (4 - a.ndim) + a.shape, True, a) for a in arrays]
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    wanted = outputs(format_text(record), weights, x)["fc"]
    for layer, rank in (("conv", 4), ("fc", 3)):
        net, blobs = rewrite(record, Weights("old", legacy), Plan([LayerPlan(layer, "pca", rank)]))
        modern = rewrite(record, weights, Plan([LayerPlan(layer, "pca", rank)]))[1]
        for name, arrays in modern.items():
            for one, other in zip(arrays, blobs[name], strict=True):
                np.testing.assert_array_equal(one, other)
        assert outputs(format_text(net), as_weights(blobs), x)["fc"].shape == wanted.shape


BAD = [
    (LayerPlan("con", "pca", 2), r"p: net.prototxt has no layer 'con'. Did you mean conv\?"),
    (LayerPlan("relu", "pca", 2), "p: relu cannot be decomposed: it has no weight matrix"),
    (LayerPlan("conv", "pca", 3), r"p: conv \(Convolution\) .* rank 3 is not a .* group 2; use 2"),
    (LayerPlan("conv", "pca", 0), "rank 0 is not a positive multiple of group 2; use 2"),
    (LayerPlan("conv", "pca", 8), r"rank 8 is above 6, .* \(6 filters of 6 weights, group 2\)"),
    (LayerPlan("fc", "kmeans", 2), "p: fc cannot be decomposed: kmeans serves convolutions only"),
    (LayerPlan("conv", "pcb", 2), "p: conv: unknown decomposition 'pcb'"),
    (LayerPlan("conv", "pca", 2, options={"a": 1}), "p: conv: pca has no option 'a'"),
]


@pytest.mark.parametrize(("entry", "message"), BAD)
def test_plans_that_do_not_fit(entry: LayerPlan, message: str) -> None:
    record, weights = net_and_weights(FULL)
    with pytest.raises(PlanError, match=message):
        rewrite(record, weights, Plan([entry], source="p"))


def test_layer_twice_in_a_plan() -> None:
    record, weights = net_and_weights(FULL)
    with pytest.raises(PlanError, match=r"layers\[1\] \(conv\) repeats layers\[0\]"):
        rewrite(record, weights, Plan([LayerPlan("conv", "pca", 2), LayerPlan("conv", "pca", 4)]))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            'layer { name: "c_linear" type: "ReLU" bottom: "x" top: "z" }',
            "c would become 'c_linear', which the net already has",
        ),
        (
            'layer { name: "z" type: "ReLU" bottom: "x" top: "c_lowrank" }',
            r"c would make blob 'c_lowrank', which z \(ReLU\) at net.prototxt:3 already makes",
        ),
    ],
)
def test_names_that_are_taken(extra: str, message: str) -> None:
    record, weights = net_and_weights(CONV.format("num_output: 4 kernel_size: 3") + "\n" + extra)
    with pytest.raises(PlanError, match=message):
        rewrite(record, weights, Plan([LayerPlan("c", "pca", 2)]))


def test_undefined_weights() -> None:
    record, weights = net_and_weights(FULL)
    weights.blobs["fc"][0].array()[0, 0] = np.nan
    assert "conv_linear" in rewrite(record, weights, Plan([LayerPlan("conv", "pca", 2)]))[1]
    with pytest.raises(WeightError, match="infinite or undefined values"):
        rewrite(record, weights, Plan([LayerPlan("fc", "pca", 2)]))


SIAMESE = "".join(
    f"""layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"
    param {{ name: "w" }} param {{ name: "b" }}
    inner_product_param {{ num_output: 4 {GAUSS} }} }}"""
    for name, bottom in (("one", "x"), ("two", "x"))
)


def test_shared_weights_of_an_hdf5_file(tmp_path: Path) -> None:
    tail = CONV.format(f"num_output: 4 kernel_size: 3 {GAUSS}")
    record, weights = net_and_weights(SIAMESE + tail)
    net = Net(parse_net(format_text(record)), weights=weights)
    path = net.save(tmp_path / "net.caffemodel.h5")
    stored = load_weights(path)
    assert not stored.blobs["two"]
    plan = Plan([LayerPlan("c", "pca", 4)])
    new, blobs = rewrite(record, stored, plan)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    wanted = outputs(format_text(record), weights, x)
    found = outputs(format_text(new), as_weights(blobs), x)
    for name in ("one", "two", "c"):
        assert relative(found[name], wanted[name]) < CLOSE


HEADS = (
    f'layer {{ name: "train_fc" type: "InnerProduct" bottom: "a" top: "u" '
    f"include {{ phase: TRAIN }} inner_product_param {{ num_output: 3 {GAUSS} }} }}\n"
    f'layer {{ name: "test_fc" type: "InnerProduct" bottom: "b" top: "v" '
    f"include {{ phase: TEST }} inner_product_param {{ num_output: 3 {GAUSS} }} }}\n"
)


@pytest.mark.parametrize("hdf5", [False, True])
def test_written_files(hdf5: bool, tmp_path: Path) -> None:
    text = net_text(SHAPE, TWINS, HEADS)
    arrays: dict = {}
    for phase in ("TRAIN", "TEST"):
        arrays |= stored_arrays(Net(parse_net(text, phase), seed=1).built)
    source = tmp_path / "net.prototxt"
    source.write_text(text)
    record = parse_text(text, "NetParameter")
    model = save_weights(tmp_path / "net.caffemodel", record, arrays)
    plan = Plan([LayerPlan("c", "pca", 6), LayerPlan("train_fc", "svd", 3)])
    written = decompose_net(
        source, model, plan.save(tmp_path / "a.json"), tmp_path / "b" / "c", hdf5
    )
    name = "lowrank.caffemodel.h5" if hdf5 else "lowrank.caffemodel"
    assert written.weights.name == name
    assert {p.name for p in (tmp_path / "b" / "c").iterdir()} == {
        "lowrank.prototxt", "plan.json", name,
    }  # fmt: skip
    assert load_plan(written.plan) == plan
    stored = load_weights(written.weights).blobs
    assert {layer for layer, blobs in stored.items() if blobs} == {
        "c_lowrank", "c_linear", "train_fc_lowrank", "train_fc_linear", "test_fc",
    }  # fmt: skip
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    for phase, top in (("TRAIN", "u"), ("TEST", "v")):
        wanted = outputs(text, load_weights(model), x, phase)[top]
        found = outputs(written.net.read_text(), load_weights(written.weights), x, phase)[top]
        assert relative(found, wanted) < CLOSE


def test_nothing_is_written_for_a_bad_plan(tmp_path: Path) -> None:
    record, weights = net_and_weights(FULL)
    source = tmp_path / "net.prototxt"
    source.write_text(format_text(record))
    with pytest.raises(PlanError, match="has no layer 'cnv'"):
        decompose_net(source, weights, Plan([LayerPlan("cnv", "pca", 2)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(SchemaError, match="file: cannot make this folder"):
        decompose_net(source, weights, Plan([]), tmp_path / "file")


def test_old_input_fields(tmp_path: Path) -> None:
    text = 'input: "x" input_dim: 2 input_dim: 4 input_dim: 7 input_dim: 7 ' + CONV.format(
        f"num_output: 4 kernel_size: 3 {GAUSS}"
    )
    weights = net_and_weights(CONV.format(f"num_output: 4 kernel_size: 3 {GAUSS}"))[1]
    (tmp_path / "net.prototxt").write_text(text)
    plan = Plan([LayerPlan("c", "pca", 2)])
    written = decompose_net(tmp_path / "net.prototxt", weights, plan, tmp_path)
    record = parse_text(written.net.read_text(), "NetParameter")
    assert [layer.name for layer in record.layer] == ["input", "c_lowrank", "c_linear"]
