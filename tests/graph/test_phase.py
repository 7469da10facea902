"""Include and exclude rules."""

from __future__ import annotations

import json

import pytest

from caffe_bridge.errors import GraphError
from caffe_bridge.graph import NetState, load_net, parse_net
from caffe_bridge.graph.phase import keeps, meets
from caffe_bridge.schema import parse_text
from tests.shared import GOLDEN, needs_shared

TRAIN = NetState("TRAIN", 2, ("a", "b"))


@pytest.mark.parametrize(
    ("rule", "met"),
    [
        ("", True),
        ("phase: TRAIN", True),
        ("phase: TEST", False),
        ("min_level: 2", True),
        ("min_level: 3", False),
        ("max_level: 2", True),
        ("max_level: 1", False),
        ("max_level: -1", False),
        ("min_level: 0 max_level: 9", True),
        ("stage: 'a'", True),
        ("stage: 'a' stage: 'b'", True),
        ("stage: 'a' stage: 'c'", False),
        ("not_stage: 'c'", True),
        ("not_stage: 'c' not_stage: 'a'", False),
        ("stage: 'a' not_stage: 'b'", False),
        ("phase: TRAIN min_level: 3", False),
        ("phase: RUN", False),
    ],
)
def test_every_condition_of_a_rule_must_hold(rule: str, met: bool) -> None:
    assert meets(TRAIN, parse_text(rule, "NetStateRule")) is met


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ("", True),
        ("include { phase: TRAIN }", True),
        ("include { phase: TEST }", False),
        ("include { phase: TEST } include { stage: 'a' }", True),
        ("include { phase: TEST } include { stage: 'c' }", False),
        ("exclude { phase: TEST }", True),
        ("exclude { phase: TRAIN }", False),
        ("exclude { phase: TEST } exclude { stage: 'a' }", False),
        ("include { }", True),
        ("exclude { }", False),
    ],
)
def test_any_rule_decides(rules: str, kept: bool) -> None:
    assert keeps(TRAIN, parse_text(rules, "LayerParameter")) is kept


def test_both_kinds_of_rules_are_refused() -> None:
    text = "layer { name: 'x' type: 'ReLU' include { } exclude { } }"
    with pytest.raises(
        GraphError, match=r"x \(ReLU\) at n.prototxt:1: has both include and exclude"
    ):
        parse_net(text, source="n.prototxt")


@needs_shared
@pytest.mark.golden
@pytest.mark.parametrize(
    "case", sorted(p.name for p in (GOLDEN / "nets").glob("rules_*")) or ["rules"]
)
def test_caffe_keeps_the_same_layers(case: str) -> None:
    folder = GOLDEN / "nets" / case
    meta = json.loads((folder / "meta.json").read_text())
    spec = load_net(folder / "net.prototxt", meta["phase"], meta["level"], tuple(meta["stages"]))
    assert [[layer.name, layer.type] for layer in spec.layers] == meta["layers"]
    assert spec.state == NetState(meta["phase"], meta["level"], tuple(meta["stages"]))
