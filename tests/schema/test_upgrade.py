"""Nets and solvers of every age against the rules of Caffe's upgrade_proto.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffe_bridge.errors import SolverError, UpgradeError
from caffe_bridge.schema import (
    Record,
    decode,
    encode,
    format_text,
    parse_text,
    read_binary,
    read_text,
    upgrade_net,
    upgrade_solver,
)
from caffe_bridge.schema.messages import enum_type
from caffe_bridge.schema.record import RawUnknown
from caffe_bridge.schema.upgrade import FORK_V1_TYPES, V1_TYPES
from caffe_bridge.schema.upgrade_v0 import TYPES
from tests.shared import GOLDEN, needs_shared


def net(text: str) -> Record:
    return upgrade_net(parse_text(text, "NetParameter", "old.prototxt"))


def v0(layer: str, wiring: str = "bottom: 'a' top: 'b'") -> Record:
    return net(f"layers {{ layer {{ name: 'l' {layer} }} {wiring} }}").layer[0]


def message(text: str, name: str) -> Record:
    return parse_text(text, name)


@pytest.mark.parametrize("kind", TYPES)
def test_v0_types(kind: str) -> None:
    layer = v0(f"type: '{kind}' blobs_lr: 1 blobs_lr: 2 weight_decay: 0.5")
    assert layer.type == V1_TYPES[TYPES[kind]]
    assert (layer.name, layer.bottom, layer.top) == ("l", ["a"], ["b"])
    assert [p.lr_mult for p in layer.param] == [1, 2]
    assert [p.has("decay_mult") for p in layer.param] == [True, False]


@pytest.mark.parametrize(
    ("old", "field", "new"),
    [
        (
            "type: 'conv' num_output: 3 biasterm: false pad: 1 kernelsize: 5 group: 3 stride: 2 "
            "weight_filler { type: 'xavier' } bias_filler { value: 1 }",
            "convolution_param",
            "num_output: 3 bias_term: false pad: 1 kernel_size: 5 group: 3 stride: 2 "
            "weight_filler { type: 'xavier' } bias_filler { value: 1 }",
        ),
        (
            "type: 'innerproduct' num_output: 3 biasterm: true weight_filler { std: 0.1 }",
            "inner_product_param",
            "num_output: 3 bias_term: true weight_filler { std: 0.1 }",
        ),
        (
            "type: 'pool' pool: AVE kernelsize: 3 stride: 2 pad: 1",
            "pooling_param",
            "pool: AVE kernel_size: 3 stride: 2 pad: 1",
        ),
        (
            "type: 'lrn' local_size: 3 alpha: 0.1 beta: 0.5 k: 2",
            "lrn_param",
            "local_size: 3 alpha: 0.1 beta: 0.5 k: 2",
        ),
        ("type: 'dropout' dropout_ratio: 0.3", "dropout_param", "dropout_ratio: 0.3"),
        ("type: 'concat' concat_dim: 0", "concat_param", "concat_dim: 0"),
        ("type: 'infogain_loss' source: 's'", "infogain_loss_param", "source: 's'"),
        (
            "type: 'hdf5_data' source: 's' batchsize: 4",
            "hdf5_data_param",
            "source: 's' batch_size: 4",
        ),
        (
            "type: 'hdf5_output' hdf5_output_param { file_name: 'f' }",
            "hdf5_output_param",
            "file_name: 'f'",
        ),
        (
            "type: 'images' source: 's' batchsize: 2 rand_skip: 3 shuffle_images: true "
            "new_height: 5 new_width: 6",
            "image_data_param",
            "source: 's' batch_size: 2 rand_skip: 3 shuffle: true new_height: 5 new_width: 6",
        ),
        (
            "type: 'data' source: 's' batchsize: 2 rand_skip: 3",
            "data_param",
            "source: 's' batch_size: 2 rand_skip: 3",
        ),
        (
            "type: 'window_data' source: 's' batchsize: 2 det_fg_threshold: 0.6 "
            "det_bg_threshold: 0.4 det_fg_fraction: 0.3 "
            "det_context_pad: 16 det_crop_mode: 'square'",
            "window_data_param",
            "source: 's' batch_size: 2 fg_threshold: 0.6 bg_threshold: 0.4 fg_fraction: 0.3 "
            "context_pad: 16 crop_mode: 'square'",
        ),
    ],
)
def test_v0_fields(old: str, field: str, new: str) -> None:
    layer = v0(old)
    parameters = getattr(layer, field)
    assert parameters == parse_text(new, parameters.message_name)
    assert [f.name for f, _ in layer.items() if f.name.endswith("_param")] == [field]


@pytest.mark.parametrize("kind", ["data", "images", "window_data", "hdf5_data"])
def test_v0_transformation(kind: str) -> None:
    layer = v0(f"type: '{kind}' scale: 0.5 meanfile: 'm' cropsize: 9 mirror: true new_num: 3")
    wanted = "scale: 0.5 mean_file: 'm' crop_size: 9 mirror: true"
    assert layer.transform_param == message(wanted, "TransformationParameter")


def test_v0_refusals() -> None:
    with pytest.raises(UpgradeError, match=r"l at old\.prototxt:1: V0 layer type 'foo' has no"):
        v0("type: 'foo'")
    with pytest.raises(UpgradeError, match=r"V0 field 'kernelsize' has no meaning for .* 'relu'"):
        v0("type: 'relu' kernelsize: 3")


PAD = "layers { layer { name: 'p' type: 'padding' pad: 2 } bottom: 'x' top: 'p' }"


@pytest.mark.parametrize(
    ("kind", "field"), [("conv", "convolution_param"), ("pool", "pooling_param")]
)
def test_padding_is_folded(kind: str, field: str) -> None:
    text = f"layers {{ layer {{ name: 'c' type: '{kind}' kernelsize: 3 }} bottom: 'p' top: 'c' }}"
    made = net(f"input: 'x' {PAD} {text} " + text.replace("'c'", "'d'"))
    assert [layer.name for layer in made.layer] == ["c", "d"]
    for layer in made.layer:
        assert layer.bottom == ["x"]
        pad = getattr(layer, field).pad
        assert (pad if isinstance(pad, int) else pad[0]) == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            PAD + "layers { layer { name: 'r' type: 'relu' } bottom: 'p' top: 'r' }",
            "r at .*reads the padding layer 'p'",
        ),
        (
            PAD + "layers { layer { name: 'c' type: 'conv' } bottom: 'p' bottom: 'x' top: 'c' }",
            "conv and pool layers with one bottom",
        ),
        (
            PAD + PAD.replace("'p'", "'q'").replace("'x'", "'p'"),
            "q at .*reads the padding layer 'p'",
        ),
        (
            PAD.replace("bottom: 'x'", "")
            + "layers { layer { name: 'c' type: 'conv' } bottom: 'p' top: 'c' }",
            "one bottom and one top, found 0 and 1",
        ),
    ],
)
def test_padding_refusals(text: str, reason: str) -> None:
    with pytest.raises(UpgradeError, match=reason):
        net(text)


def test_padding_of_a_blob_made_again() -> None:
    relu = "layers { layer { name: 'r' type: 'relu' } bottom: 'x' top: 'p' }"
    conv = "layers { layer { name: 'c' type: 'conv' } bottom: 'p' top: 'c' }"
    assert net(PAD + relu + conv).layer[1].bottom == ["p"]


def test_every_v1_type_has_a_meaning() -> None:
    for name in enum_type("V1LayerParameter.LayerType").numbers:
        layer = net(f"layers {{ name: 'l' type: {name} }}").layer[0]
        assert layer.type == {**V1_TYPES, **FORK_V1_TYPES}[name]
    assert net("layers { type: 40 }").layer[0].type == "PReLU"
    assert net("layers { type: SOMETHING }").layer[0].type == "SOMETHING"


def test_v1_parameters() -> None:
    layer = net(
        "layers { name: 'c' type: CONVOLUTION bottom: 'a' top: 'b' loss_weight: 2 odd: 1 "
        "include { phase: TEST } param: 'w' param: '' blobs_lr: 1 blobs_lr: 2 blobs_lr: 3 "
        "weight_decay: 0 blob_share_mode: PERMISSIVE blobs { num: 1 } "
        "convolution_param { num_output: 4 } }"
    ).layer[0]
    assert [p.name for p in layer.param] == ["w", "", ""]
    assert [p.lr_mult for p in layer.param] == [1, 2, 3]
    assert [p.has("decay_mult") for p in layer.param] == [True, False, False]
    assert [p.share_mode for p in layer.param] == ["PERMISSIVE", "STRICT", "STRICT"]
    assert layer.include[0].phase == "TEST"
    assert layer.loss_weight == [2]
    assert layer.convolution_param.num_output == 4
    assert len(layer.blobs) == 1
    assert layer.unknown[0].name == "odd"
    assert layer.where() == "old.prototxt:1"


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("DATA", "data_param"),
        ("IMAGE_DATA", "image_data_param"),
        ("WINDOW_DATA", "window_data_param"),
    ],
)
def test_v1_transformation_is_moved(kind: str, field: str) -> None:
    old = f"{field} {{ source: 's' scale: 0.5 mean_file: 'm' crop_size: 9 mirror: true }}"
    layer = net(f"layers {{ type: {kind} transform_param {{ scale: 3 }} {old} }}").layer[0]
    wanted = "scale: 0.5 mean_file: 'm' crop_size: 9 mirror: true"
    assert layer.transform_param == message(wanted, "TransformationParameter")
    assert format_text(getattr(layer, field)) == 'source: "s"\n'


def test_current_layers_keep_their_transformation_as_in_caffe() -> None:
    layer = net("layer { type: 'Data' data_param { scale: 0.5 } }").layer[0]
    assert not layer.has("transform_param")
    assert layer.data_param.scale == 0.5


def test_unknown_binary_fields_are_kept_where_their_number_is_free() -> None:
    kept = [RawUnknown(4500, 2, b"abc"), RawUnknown(4501, 0, b"\x07"), RawUnknown(4502, 0, b"\x01")]
    old = Record("NetParameter")
    layer = old.add("layers", name="v1", type="RELU", bottom=["a"], top=["b"])
    # LayerParameter's field 10 is the phase.
    layer.raw_unknown = [kept[0], RawUnknown(10, 0, b"\x01")]
    connection = old.add("layers", bottom=["b"], top=["c"])
    connection.layer = Record("V0LayerParameter", name="v0", type="relu")
    connection.raw_unknown, connection.layer.raw_unknown = [kept[1]], [kept[2]]
    made = upgrade_net(decode(encode(old), "NetParameter"))
    again = decode(encode(made), "NetParameter")
    assert [layer.raw_unknown for layer in again.layer] == [[kept[0]], kept[1:]]
    assert not again.layer[0].has("phase")


def test_old_and_new_layers_do_not_mix() -> None:
    with pytest.raises(UpgradeError, match=r"old 'layers' \(line 1\) and new 'layer' .*\(line 2\)"):
        net("layers { type: RELU }\nlayer { type: 'ReLU' }")


def dims(record: Record) -> list[list[int]]:
    return [list(shape.dim) for shape in record.input_param.shape]


def test_input_fields_become_a_layer() -> None:
    for text in (
        "input_dim: 1 input_dim: 3 input_dim: 4 input_dim: 5 "
        "input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5",
        "input_shape { dim: 1 dim: 3 dim: 4 dim: 5 } input_shape { dim: 2 dim: 3 dim: 4 dim: 5 }",
    ):
        made = net(f"input: 'a' input: 'b' layer {{ name: 'l' }} {text}")
        assert [layer.name for layer in made.layer] == ["input", "l"]
        assert made.layer[0].type == "Input"
        assert made.layer[0].top == ["a", "b"]
        assert dims(made.layer[0]) == [[1, 3, 4, 5], [2, 3, 4, 5]]
        assert not any(made.has(name) for name in ("input", "input_dim", "input_shape"))


def test_old_nets_keep_their_input() -> None:
    made = net("input: 'a' input_shape { dim: 2 } layers { name: 'r' type: RELU bottom: 'a' }")
    assert [(layer.name, layer.type) for layer in made.layer] == [("input", "Input"), ("r", "ReLU")]
    assert dims(made.layer[0]) == [[2]]


def test_input_shape_wins_over_input_dim() -> None:
    made = net(
        "input: 'a' input_shape { dim: 7 } input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4"
    )
    assert dims(made.layer[0]) == [[7]]


def test_input_without_shape_is_stripped() -> None:
    made = net("input: 'a' layer { name: 'l' }")
    assert [layer.name for layer in made.layer] == ["l"]
    assert not made.has("input")
    assert not net("input_dim: 3").has("input_dim")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("input: 'a' input_dim: 1 input_dim: 3", "1 inputs need 4 input_dim values, found 2"),
        ("input: 'a' input: 'b' input_shape { dim: 1 }", "2 inputs but 1 input_shape blocks"),
    ],
)
def test_inputs_that_do_not_fit(text: str, reason: str) -> None:
    with pytest.raises(UpgradeError, match=reason):
        net(text)


def test_batch_norm_with_three_params_is_frozen() -> None:
    text = "layer {{ type: '{}' {} }}"
    three = "param { lr_mult: 1 decay_mult: 1 } param { name: 'v' } param { }"
    frozen = net(text.format("BatchNorm", three)).layer[0]
    assert [(p.lr_mult, p.decay_mult, p.name) for p in frozen.param] == [
        (0, 0, ""), (0, 0, "v"), (0, 0, ""),
    ]  # fmt: skip
    assert not net(text.format("BatchNorm", "param { }")).layer[0].param[0].has("lr_mult")
    assert net(text.format("Other", three)).layer[0].param[0].lr_mult == 1


def test_upgrading_twice_changes_nothing() -> None:
    made = net(PAD + "layers { layer { name: 'c' type: 'conv' } bottom: 'p' top: 'c' } input: 'x'")
    once = format_text(made)
    assert format_text(upgrade_net(made)) == once
    assert format_text(upgrade_net(parse_text(once, "NetParameter"))) == once


@pytest.mark.parametrize(
    ("old", "new"),
    [("SGD", "SGD"), ("NESTEROV", "Nesterov"), ("ADAGRAD", "AdaGrad"), ("RMSPROP", "RMSProp"),
     ("ADADELTA", "AdaDelta"), ("ADAM", "Adam"), ("5", "Adam")],
)  # fmt: skip
def test_solver_types(old: str, new: str) -> None:
    solver = upgrade_solver(parse_text(f"solver_type: {old}", "SolverParameter"))
    assert solver.type == new
    assert not solver.has("solver_type")


def test_solver_with_both_types() -> None:
    solver = parse_text("solver_type: SGD type: 'Adam'", "SolverParameter")
    with pytest.raises(SolverError, match=r"s\.prototxt: has both 'type' and the old"):
        upgrade_solver(solver, "s.prototxt")


def test_snapshot_prefix(tmp_path: Path) -> None:
    path = tmp_path / "my.solver.prototxt"
    plain = upgrade_solver(Record("SolverParameter"), path)
    assert plain.snapshot_prefix == str(tmp_path / "my.solver")
    given = upgrade_solver(Record("SolverParameter", snapshot_prefix="snap/x"), path)
    assert given.snapshot_prefix == "snap/x"
    folder = upgrade_solver(Record("SolverParameter", snapshot_prefix=str(tmp_path)), path)
    assert folder.snapshot_prefix == str(tmp_path / "my.solver")
    assert not upgrade_solver(Record("SolverParameter")).has("snapshot_prefix")


@needs_shared
@pytest.mark.golden
@pytest.mark.parametrize("case", ["legacy_v0", "legacy_v1"])
def test_legacy_nets_give_caffes_layers(case: str) -> None:
    folder = GOLDEN / "nets" / case
    wanted = [tuple(pair) for pair in json.loads((folder / "meta.json").read_text())["layers"]]
    made = upgrade_net(read_text(folder / "net.prototxt", "NetParameter"))
    assert [(layer.name, layer.type) for layer in made.layer] == wanted
    stored = upgrade_net(read_binary(folder / "weights.caffemodel", "NetParameter"))
    with_blobs = {layer.name: len(layer.blobs) for layer in stored.layer if layer.blobs}
    assert set(with_blobs) == {n for n, k in wanted if k in ("Convolution", "InnerProduct")}
    assert set(with_blobs.values()) == {2}
