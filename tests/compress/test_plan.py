from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caffe_bridge.compress import (
    LayerPlan,
    Plan,
    load_plan,
    make_plan,
    parse_plan,
    refreshed,
)
from caffe_bridge.compress.budget import budget_plan
from caffe_bridge.errors import PlanError, SchemaError
from tests.compress.checks import CONV, GAUSS, filled, net_text

PLAN = Plan(
    layers=[
        LayerPlan("conv1", "pca", 13, 0.951, 0.2213, 1.75, "keeps 0.95 of the energy"),
        LayerPlan("conv2/a", "svd", 20, options={"balance": "first"}),
        LayerPlan("conv3", "tucker", (12, 16)),
        LayerPlan("ip1", "whole", reason='excepted, "as asked"'),
    ],
    net="net.prototxt",
    weights="net.caffemodel",
    settings={"method": "pca", "energy": 0.95},
)


def test_round_trip(tmp_path: Path) -> None:
    path = PLAN.save(tmp_path / "plan.json")
    assert load_plan(path) == PLAN
    assert load_plan(path).source == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_text_is_for_people() -> None:
    lines = PLAN.to_json().splitlines()
    assert lines[1] == '  "schema_version": 1,'
    assert sum('"layer": ' in line for line in lines) == 4
    assert '{"layer": "ip1", "method": "whole", "reason": "excepted, \\"as asked\\""}' in lines[-3]


def test_empty_plan() -> None:
    assert parse_plan(Plan([]).to_json()) == Plan([])


def test_short_hand_written_plan() -> None:
    plan = parse_plan('{"layers": [{"layer": "c", "method": "pca", "rank": 4}]}')
    assert plan.decomposed() == [LayerPlan("c", "pca", 4)]


ENTRIES: list[tuple[Any, str]] = [
    (3, r"layers\[0\]: wants an object, found 3"),
    ({"method": "pca", "rank": 1}, r"layers\[0\]: has no 'layer'"),
    ({"layer": 5, "method": "pca", "rank": 1}, r"layers\[0\]: 'layer' wants a text, found 5"),
    ({"layer": "c", "rank": 1}, r"layers\[0\] \(c\): has no 'method'; give whole or one of"),
    ({"layer": "c", "method": "pac", "rank": 1}, r"\(c\): unknown decomposition 'pac'. Did you"),
    ({"layer": "c", "method": "pca"}, r"\(c\): rank is null; give a positive integer"),
    ({"layer": "c", "method": "pca", "rank": 0}, r"\(c\): rank is 0; give a positive integer"),
    ({"layer": "c", "method": "pca", "rank": 2.5}, r"\(c\): rank is 2.5; give a positive"),
    ({"layer": "c", "method": "pca", "rank": True}, r"\(c\): rank is true; give a positive"),
    ({"layer": "c", "method": "pca", "rank": "4"}, r'\(c\): rank is "4"; give a positive'),
    ({"layer": "c", "method": "pca", "rank": []}, r"\(c\): rank is \[\]; give a positive integer"),
    ({"layer": "c", "method": "pca", "rank": [2, 3]}, r"\(c\): 2 ranks are given, pca has 1"),
    ({"layer": "c", "method": "tucker", "rank": [2]}, r"1 ranks .* has 2 \(rank_in, rank_out\)"),
    ({"layer": "c", "method": "pca", "rank": 2, "ranks": 2}, r"\(c\): unknown key 'ranks'; known"),
    ({"layer": "c", "method": "pca", "rank": 2, "energy": "a"}, r"'energy' wants a number"),
    ({"layer": "c", "method": "pca", "rank": 2, "error": float("nan")}, r"'error' wants a number"),
    ({"layer": "c", "method": "pca", "rank": 2, "reason": 1}, r"'reason' wants a text"),
    ({"layer": "c", "method": "pca", "rank": 2, "options": {"a": 1}}, "pca has no option 'a'"),
    ({"layer": "c", "method": "pca", "rank": 2, "options": []}, "'options' wants an object"),
    ({"layer": "c", "method": "whole", "rank": 2}, "method 'whole' keeps the layer, but a rank"),
]


@pytest.mark.parametrize(("entry", "message"), ENTRIES)
def test_bad_entries(entry: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"layers": [entry]}))
    with pytest.raises(PlanError, match=message) as caught:
        load_plan(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "p.json:1:2: is not JSON"),
        ("[]", "p.json: is no plan; it wants an object with a list 'layers'"),
        ('{"conv1": 8}', "p.json: is no plan"),
        ('{"layers": {}}', "p.json: 'layers' wants a list, found {}"),
        ('{"layers": [], "layer": 1}', "p.json: unknown key 'layer'"),
        ('{"layers": [], "net": 1}', "p.json: 'net' wants a text"),
        ('{"layers": [], "settings": 1}', "p.json: 'settings' wants an object"),
        ('{"layers": [], "schema_version": 2}', "schema_version is 2, this version reads 1"),
        (
            '{"layers": [{"layer": "c", "method": "whole"}, {"layer": "c", "method": "whole"}]}',
            r"layers\[1\] \(c\) repeats layers\[0\]; keep one of them",
        ),
    ],
)
def test_bad_plans(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(text, "p.json")


def test_ranks_of_nearly_equal_energy_are_changes_too() -> None:
    conv = CONV.format(f"num_output: 6 kernel_size: 3 {GAUSS}")
    record, weights = filled(net_text((1, 4, 6, 6), conv))
    made = make_plan(record, weights, ranks=[5])
    rounded = replace(made.layers[0], energy=1.0, ms_before=2.0, ms_after=1.0)
    target = make_plan(record, weights, ranks=[6]).layers[0]
    timed = Plan([rounded], settings={"measured_speedup": 2.0, "reached": True})
    edited = Plan([replace(rounded, rank=6)], settings=timed.settings)
    after = refreshed(edited, record, weights)
    assert after.layers == [replace(target, reason="changed by hand", ms_before=2.0)]
    assert after.settings["reached"] is False
    assert "measured_speedup" not in after.settings
    as_it_was = replace(rounded, energy=made.layers[0].energy)
    assert refreshed(Plan([as_it_was]), record, weights).layers == [as_it_was]


@pytest.mark.parametrize(
    ("unit", "rank", "each", "speedup"),
    # 6 filters of 4 x 3 x 3 over 4 x 4 places. Of each rank the vertical half has 4 x 3 weights at
    # 4 x 6 places (the horizontal one wants the rim), the other 3 x 6 weights at 4 x 4.
    [("macs", 4, 4 * 3 * 24 + 3 * 6 * 16, 3.0), ("params", 5, 4 * 3 + 3 * 6, 3.6)],
)
def test_an_edited_plan_for_a_budget_counts_at_the_sizes_of_the_net(
    unit: str, rank: int, each: int, speedup: float
) -> None:
    conv = CONV.format(f"num_output: 6 kernel_size: 3 {GAUSS}")
    record, weights = filled(net_text((1, 4, 6, 6), conv))
    made = budget_plan(record, weights, unit=unit, keep=0.8, methods=["spatial"])
    assert [entry.rank for entry in made.layers] == [rank]
    assert made.settings[f"{unit}_after"] == rank * each
    assert refreshed(made, record, weights) == made
    edited = replace(made, layers=[replace(made.layers[0], rank=2)])
    after = refreshed(edited, record, weights)
    assert after.settings == made.settings | {f"{unit}_after": 2 * each}
    assert after.layers[0].theoretical_speedup == speedup
    assert after.layers[0].reason == "changed by hand"


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no such plan file"):
        load_plan(tmp_path / "none.json")
    binary = tmp_path / "net.caffemodel"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="is a binary file, expected a JSON plan"):
        load_plan(binary)
