"""Forms of a layer, timed between neighbours."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_bridge.bench import Schedule
from caffe_bridge.bench.forms import between_neighbours, choose, measure_forms
from caffe_bridge.errors import DataError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "forms.py"
SHORT = Schedule(
    min_runs=2, min_seconds=0.0, warmup_runs=1, warmup_seconds=0.0, block=1, max_seconds=1.0
)
NET = """
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 4 dim: 5 dim: 5 } } }
layer { name: "first" type: "LRN" bottom: "data" top: "first" }
layer { name: "pool" type: "Pooling" bottom: "first" top: "pool" pooling_param { kernel_size: 4 } }
layer { name: "act" type: "PReLU" bottom: "pool" top: "act"
  prelu_param { filler { type: "uniform" min: 0.1 max: 0.9 } } }
layer { name: "again" type: "PReLU" bottom: "act" top: "again"
  prelu_param { filler { type: "uniform" min: 0.1 max: 0.9 } } }
layer { name: "ip" type: "InnerProduct" bottom: "again" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


@pytest.fixture(scope="module")
def net() -> Net:
    return Net(parse_net(NET), seed=0).eval()


def test_every_layer_with_a_choice_is_timed(net: Net) -> None:
    told: list[str] = []
    found = measure_forms(net, batch=3, schedule=SHORT, progress=told.append)
    assert [(row.layer, row.type, row.shape) for row in found] == [
        ("first", "LRN", (3, 4, 5, 5)), ("act", "PReLU", (3, 4, 2, 2)),
        ("again", "PReLU", (3, 4, 2, 2)), ("ip", "InnerProduct", (3, 4, 2, 2)),
    ]  # fmt: skip
    assert [list(row.ms) for row in found] == [
        ["band", "operator", "windows", "average"], *[["operator", "relus", "depthwise"]] * 2,
        ["gemm", "matmul"],
    ]  # fmt: skip
    assert max(value for row in found for value in row.differences.values()) <= 1e-5
    assert found[1].ms == found[2].ms, "equal layers are measured once"
    assert [line.split(" ")[0] for line in told] == ["first", "act", "again", "ip"]
    for row in found:
        assert row.saved_ms == next(iter(row.ms.values())) - row.ms[row.best]


def test_the_clock_is_the_callers(net: Net) -> None:
    ticks = itertools.count(0, 1_000_000)
    found = measure_forms(net, schedule=SHORT, clock=lambda: next(ticks))
    assert {value for row in found for value in row.ms.values()} == {1.0}
    assert {row.best for row in found} == {"band", "operator", "gemm"}


def test_neighbours_and_weights(net: Net) -> None:
    layer = net.layer("act")
    made = between_neighbours(layer, (1, 4, 2, 2), before=True, after=True)
    assert [inner.name for inner in made.built.layers] == ["entry", "before", "layer", "after"]
    assert made.layer("layer").blobs[0].tolist() == layer.blobs[0].tolist()
    bare = between_neighbours(layer, (1, 4, 2, 2), before=False, after=False)
    assert [inner.name for inner in bare.built.layers] == ["entry", "layer"]


@pytest.mark.parametrize(
    ("ms", "differences", "want"),
    [
        ({"a": 2.0, "b": 1.0}, {"a": 0.0, "b": 1e-7}, "b"),
        ({"a": 2.0, "b": 1.0}, {"a": 0.0, "b": 1e-3}, "a"),
        ({"a": 1.0, "b": 0.98}, {"a": 0.0, "b": 0.0}, "a"),
        ({"a": 1.0, "b": 0.9, "c": 0.8}, {"a": 0.0, "b": 0.0, "c": 0.5}, "b"),
    ],
)
def test_choice(ms: dict[str, float], differences: dict[str, float], want: str) -> None:
    assert choose(ms, differences) == want


def test_no_images(net: Net) -> None:
    with pytest.raises(DataError, match="batch is 0; give 1 or more images"):
        measure_forms(net, batch=0)


def test_the_benchmark_writes_its_table(tmp_path: Path) -> None:
    report = tmp_path / "forms.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--only", "Softmax", "--quick", "--threads", "1", "--batch", "1",
         "--json", report],
        capture_output=True, text=True, check=False, cwd=SCRIPT.parents[1],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].startswith("| maps of 21 classes | Softmax | 1x21x64x64 |")
    rows = json.loads(report.read_text())["layers"]
    assert [list(row["ms"]) for row in rows] == [["operator", "exp"]] * 2
    assert {row["default"] for row in rows} == {"exp"}
