"""From prototxt to specs and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_bridge.errors import SchemaError
from caffe_bridge.graph import NetState, load_net, net_record, parse_net, read_net
from caffe_bridge.graph.convert import with_tops
from caffe_bridge.schema import format_text, parse_text, upgrade_net

TEXT = """
name: "n" force_backward: true odd: 3
layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
layer {
  name: "ip" type: "InnerProduct" bottom: "x" top: "y" loss_weight: 0.5 propagate_down: false
  param { name: "w" lr_mult: 0 share_mode: PERMISSIVE } param { decay_mult: 0.1 force_mult: 2 }
  inner_product_param { num_output: 3 } extra { a: 1 }
}
layer { name: "train" type: "Silence" bottom: "y" include { phase: TRAIN } }
"""


def test_spec_fields() -> None:
    spec = parse_net(TEXT, "TRAIN", "n.prototxt")
    assert (spec.name, spec.force_backward, spec.source) == ("n", True, "n.prototxt")
    assert [layer.name for layer in spec.layers] == ["data", "ip", "train"]
    ip = spec.layer("ip")
    assert (ip.type, ip.bottoms, ip.tops) == ("InnerProduct", ("x",), ("y",))
    assert (ip.loss_weights, ip.propagate_down) == ((0.5,), (False,))
    first, second = ip.params
    assert (first.name, first.lr_mult, first.decay_mult, first.permissive) == ("w", 0.0, None, True)
    assert (second.name, second.lr_mult, second.decay_mult) == ("", None, 0.1)
    assert (first.force_mult, second.force_mult) == (None, 2.0)
    assert ip.label() == "ip (InnerProduct) at n.prototxt:4"
    with pytest.raises(KeyError):
        spec.layer("none")


def test_back_to_a_record() -> None:
    record = parse_text(TEXT, "NetParameter")
    assert net_record(parse_net(TEXT, "TRAIN")) == record
    test = net_record(parse_net(TEXT, "TEST"))
    assert [layer.name for layer in test.layer] == ["data", "ip"]
    assert "odd: 3" in format_text(test)
    assert "extra {" in format_text(test)


def test_with_layers_and_tops() -> None:
    spec = parse_net(TEXT)
    renamed = with_tops(spec.layer("ip"), ("z",))
    made = net_record(spec.with_layers((spec.layer("data"), renamed)))
    assert made.layer[1].top == ["z"]
    assert spec.layer("ip").record.top == ["y"]


STATE = "state { phase: TRAIN level: 3 stage: 'own' } layer { name: 'a' type: 'X' }"


@pytest.mark.parametrize(
    ("arguments", "state"),
    [
        ({}, NetState("TEST", 3, ("own",))),
        ({"phase": "TRAIN"}, NetState("TRAIN", 3, ("own",))),
        ({"phase": ""}, NetState("TRAIN", 3, ("own",))),
        ({"level": 0}, NetState("TEST", 0, ("own",))),
        ({"level": 5, "stages": ("b", "own", "b")}, NetState("TEST", 5, ("own", "b"))),
    ],
)
def test_the_callers_state_goes_over_the_nets_own(arguments, state) -> None:
    assert load_net(parse_text(STATE, "NetParameter"), **arguments).state == state


def test_a_net_without_state_is_for_test() -> None:
    record = parse_text("layer { name: 'a' }", "NetParameter")
    assert load_net(record, "").state == NetState("TEST", 0, ())


def test_files_of_any_age(tmp_path: Path) -> None:
    path = tmp_path / "old.prototxt"
    path.write_text(
        "input: 'x' input_dim: [1, 2, 3, 4] layers { name: 'r' type: RELU bottom: 'x' }"
    )
    assert [layer.type for layer in read_net(path).layer] == ["Input", "ReLU"]
    assert [layer.type for layer in load_net(path).layers] == ["Input", "ReLU"]
    with pytest.raises(SchemaError, match="no such prototxt file"):
        load_net(tmp_path / "none.prototxt")


def test_filtering_leaves_the_record_alone() -> None:
    record = upgrade_net(parse_text(TEXT, "NetParameter"))
    before = format_text(record)
    load_net(record, "TEST")
    assert format_text(record) == before
