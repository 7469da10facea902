from __future__ import annotations

import numpy as np
import pytest

from caffe_bridge.compress import as_weights_of
from caffe_bridge.compress.batch_norm import fold_batch_norm
from caffe_bridge.compress.surgery import (
    Surgery,
    fc_to_conv,
    largest_difference,
    merge_groups,
    split_groups,
)
from caffe_bridge.compress.surgery.result import EXACT
from caffe_bridge.errors import PlanError, VerifyError
from caffe_bridge.net import Net
from caffe_bridge.schema import parse_text
from tests.compress.checks import GAUSS, as_weights, filled, net_text
from tests.helpers import SHARED, needs_shared

SHAPE = (2, 8, 9, 7)


def conv(name: str, bottom: str, param: str, more: str = "", kind: str = "Convolution") -> str:
    return (
        f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {more} '
        f"convolution_param {{ {param} {GAUSS} }} }}"
    )


def fc(name: str, bottom: str, param: str, more: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" {more} '
        f"inner_product_param {{ {param} {GAUSS} }} }}"
    )


def relu(name: str, blob: str, more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{blob}" top: "{blob}" {more} }}'


def arrays_of(made: Surgery) -> dict[str, list[np.ndarray]]:
    return {name: [np.array(a) for a in arrays] for name, arrays in made.blobs.items()}


@pytest.mark.parametrize("group", [2, 4, 8])
@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
@pytest.mark.parametrize("bias", ["", "bias_term: false"])
def test_splitting_and_merging_give_back_the_net(group: int, kind: str, bias: str) -> None:
    param = f"num_output: 16 kernel_size: 3 stride: 2 pad: 1 group: {group} {bias}"
    if bias:
        param_text = conv("a", "x", param, "param { lr_mult: 2 }", kind).replace(
            'bias_filler { type: "gaussian" std: 0.3 }', ""
        )
    else:
        param_text = conv("a", "x", param, "param { lr_mult: 2 } param { lr_mult: 3 }", kind)
    text = net_text(SHAPE, param_text, relu("r", "a"))
    record, weights = filled(text)
    split = split_groups(record, weights)
    assert split.changed == ["a"]
    names = [f"a_g{i + 1}" for i in range(group)]
    assert [x.name for x in split.net.layer] == ["x", "a_slice", *names, "a_concat", "r"]
    assert {len(split.blobs[name]) for name in names} == {1 if bias else 2}
    assert largest_difference(record, weights, split) <= EXACT
    whole = merge_groups(split.net, as_weights_of(split.blobs))
    assert whole.changed == ["a"]
    assert whole.net == record
    before = {k: [np.array(b.array()) for b in v] for k, v in weights.blobs.items()}
    for name, arrays in arrays_of(whole).items():
        for mine, theirs in zip(arrays, before[name], strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_layers_of_both_phases_are_split_and_stored_once() -> None:
    a = conv("a", "x", "num_output: 4 kernel_size: 1 group: 2", "include { phase: TRAIN }")
    text = net_text(SHAPE, a, a.replace("TRAIN", "TEST"))
    record, weights = filled(text)
    made = split_groups(record, weights)
    assert made.changed == ["a"]
    assert [x.name for x in made.net.layer].count("a_g2") == 2
    assert all(x.include[0].has("phase") for x in made.net.layer[1:])
    assert largest_difference(record, weights, made) <= EXACT


def test_what_cannot_be_split_says_why() -> None:
    shared = 'param { name: "w" }'
    text = net_text(
        SHAPE, conv("a", "x", "num_output: 8 kernel_size: 1 group: 2 bias_term: false", shared),
        conv("b", "a", "num_output: 8 kernel_size: 1 group: 1 bias_term: false"),
    )  # fmt: skip
    text = text.replace('bias_filler { type: "gaussian" std: 0.3 }', "")
    record, weights = filled(text)
    with pytest.raises(PlanError, match=r"b \(Convolution\).*has one group only"):
        split_groups(record, weights, ("b",))
    with pytest.raises(PlanError, match="has no layer 'c'"):
        split_groups(record, weights, ("c",))
    with pytest.raises(PlanError, match="'x' is a Input layer"):
        split_groups(record, weights, ("x",))
    clash = text.replace('name: "b"', 'name: "a_g2"')
    with pytest.raises(PlanError, match=r"would make 'a_g2', which the net already has"):
        split_groups(*filled(clash))
    other = text.replace("group: 1 bias_term", "bias_term").replace(
        'bottom: "a" top: "b"', 'bottom: "a" top: "b" param { name: "w" share_mode: PERMISSIVE }'
    )
    kept = split_groups(parse_text(other, "NetParameter", "net.prototxt"), weights).kept
    assert kept == {"a": "b (Convolution) at net.prototxt:3 shares its parameter 'w' and has no 2 "
                         "groups"}  # fmt: skip


def other_record(text: str):
    from caffe_bridge.schema import parse_text

    return parse_text(text, "NetParameter", "net.prototxt")


HAND = net_text(
    SHAPE,
    'layer { name: "cut" type: "Slice" bottom: "x" top: "s1" top: "s2" '
    "slice_param { axis: 1 slice_point: 4 } }",
    conv("p", "s1", "num_output: 6 kernel_size: 3"), relu("rp", "p"),
    conv("q", "s2", "num_output: 6 kernel_size: 3"), relu("rq", "q"),
    'layer { name: "join" type: "Concat" bottom: "p" bottom: "q" top: "y" }',
    fc("f", "y", "num_output: 3"),
)  # fmt: skip


def test_a_net_split_by_hand_is_merged() -> None:
    record, weights = filled(HAND)
    made = merge_groups(record, weights)
    assert [x.name for x in made.net.layer] == ["x", "y", "y_relu", "f"]
    assert made.net.layer[1].convolution_param.group == 2
    assert largest_difference(record, weights, made) <= EXACT


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("slice_point: 4", "slice_point: 5", "weights of different shapes"),
        ('bottom: "p" bottom: "q"', 'bottom: "q" bottom: "p"', "joins the parts in another order"),
        ('bottom: "q" top: "q"', 'bottom: "q" top: "q" relu_param { negative_slope: 0.1 }',
         "not followed by equal ReLU layers"),
        ('top: "q"  convolution_param { num_output: 6',
         'top: "q"  convolution_param { num_output: 5', "have different parameters"),
        ('bottom: "y" top: "f"', 'bottom: "p" top: "f"', "does not go into exactly one Concat"),
        ('bottom: "s2" top: "q"', 'bottom: "s1" top: "q"', "does not feed exactly one convolution"),
    ],
)  # fmt: skip
def test_what_is_not_one_grouped_convolution_stays(old: str, new: str, reason: str) -> None:
    assert old in HAND
    made = merge_groups(*filled(HAND.replace(old, new)))
    assert not made.changed
    assert reason in made.kept["cut"]


FCS = net_text(
    SHAPE, conv("c", "x", "num_output: 5 kernel_size: 3"),
    fc("f1", "c", "num_output: 6 transpose: true"), relu("r", "f1"),
    'layer { name: "d" type: "Dropout" bottom: "f1" top: "f1" }',
    fc("f2", "f1", "num_output: 4"),
    'layer { name: "prob" type: "Softmax" bottom: "f2" top: "prob" }',
)  # fmt: skip


def test_a_classifier_becomes_convolutional_and_slides() -> None:
    record, weights = filled(FCS)
    made = fc_to_conv(record, weights)
    assert made.changed == ["f1", "f2"]
    kernels = {
        x.name: (x.convolution_param.kernel_h, x.convolution_param.kernel_w,
                 list(x.convolution_param.kernel_size))
        for x in made.net.layer if x.name.endswith("-conv")
    }  # fmt: skip
    assert kernels == {"f1-conv": (7, 5, []), "f2-conv": (0, 0, [1])}
    assert largest_difference(record, weights, made) <= EXACT
    large = Net(made.net, weights=as_weights_of(made.blobs), inputs={"x": (1, 8, 11, 8)})
    assert large.shapes_for({"x": (1, 8, 11, 8)})["prob"] == (1, 4, 3, 2)


def test_a_flatten_in_front_is_taken_out() -> None:
    text = net_text(
        SHAPE, 'layer { name: "flat" type: "Flatten" bottom: "x" top: "flat" }',
        fc("f", "flat", "num_output: 3"),
    )  # fmt: skip
    record, weights = filled(text)
    made = fc_to_conv(record, weights)
    assert [x.name for x in made.net.layer] == ["x", "f-conv"]
    assert largest_difference(record, weights, made) <= EXACT


def test_fully_connected_layers_that_stay() -> None:
    text = net_text((2, 6), fc("f", "x", "num_output: 3"))
    made = fc_to_conv(*filled(text))
    assert made.kept == {"f": "its bottom of shape (2, 6) has no height and width"}
    with pytest.raises(PlanError, match=r"f2 \(InnerProduct\).*name it too"):
        fc_to_conv(*filled(FCS), ("f1",))
    only = fc_to_conv(*filled(FCS), ("f2",))
    assert only.kept == {
        "f1": "it was not named", "f2": "its bottom of shape (2, 6) has no height and width",
    }  # fmt: skip


def test_a_deconvolution_takes_the_batch_norm_in() -> None:
    text = net_text(
        SHAPE, conv("a", "x", "num_output: 6 kernel_size: 2 stride: 2 group: 2", "",
                    "Deconvolution"),
        'layer { name: "n" type: "BatchNorm" bottom: "a" top: "a" }',
        'layer { name: "s" type: "Scale" bottom: "a" top: "a" scale_param { bias_term: true } }',
    )  # fmt: skip
    record, weights = filled(text)
    random = np.random.default_rng(0)
    blobs = {k: [np.array(b.array()) for b in v] for k, v in weights.blobs.items()}
    blobs["n"] = [random.standard_normal(6).astype(np.float32),
                  (0.5 + random.random(6)).astype(np.float32), np.ones(1, np.float32)]  # fmt: skip
    blobs["s"] = [random.standard_normal(6).astype(np.float32) for _ in range(2)]
    made = fold_batch_norm(record, as_weights(blobs))
    assert made.folded == ["n"]
    result = Surgery(made.net, made.blobs)
    assert largest_difference(record, as_weights(blobs), result) <= EXACT


def test_a_difference_is_an_error() -> None:
    record, weights = filled(FCS)
    made = fc_to_conv(record, weights)
    made.blobs["f2-conv"][1] = made.blobs["f2-conv"][1] + 1
    made.net.layer = [x for x in made.net.layer if x.name != "prob"]
    with pytest.raises(VerifyError, match="'prob' is lost"):
        largest_difference(record, weights, made)
    made = fc_to_conv(record, weights)
    made.blobs["f2-conv"][0] = made.blobs["f2-conv"][0] * 2
    with pytest.raises(VerifyError, match="nothing is written"):
        largest_difference(record, weights, made)


@needs_shared
def test_a_trained_net_folds_and_splits() -> None:
    folder = SHARED / "models" / "landmark106"
    net, weights = folder / "deploy.prototxt", folder / "weights.caffemodel"
    for operate in (fc_to_conv, split_groups):
        made = operate(net, weights)
        assert made.changed
        assert largest_difference(net, weights, made) <= EXACT
