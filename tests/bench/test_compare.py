"""The whole measurement and its reports."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from caffe_bridge.bench import (
    BenchResult,
    compare,
    from_json,
    layer_results,
    layer_table,
    load_json,
    machine_info,
    model_table,
    to_csv,
    to_json,
    to_markdown,
)
from caffe_bridge.bench.report import difference
from caffe_bridge.errors import DataError, SchemaError
from tests.bench.models import small_net


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    folder = tmp_path_factory.mktemp("onnx")
    paths = [small_net(folder / "dense.onnx"), small_net(folder / "low.onnx", lowrank=True)]
    paths.append(small_net(folder / "same.onnx"))
    return compare(paths, batch=3, quick=True)


def test_models_and_differences(result: BenchResult) -> None:
    assert [model.name for model in result.models] == ["dense", "low", "same"]
    dense, low, same = result.models
    assert result.baseline is dense
    assert (dense.speed_up, dense.difference) == (None, None)
    assert same.difference is not None
    assert (same.difference.max_abs, same.difference.top1) == (0.0, 1.0)
    assert low.difference is not None
    assert low.difference.max_abs > 0
    for model in (low, same):
        assert model.speed_up is not None
        ratio = dense.stats.median_ms / model.stats.median_ms
        assert model.speed_up.ratio == pytest.approx(ratio)
        assert model.speed_up.low <= ratio <= model.speed_up.high
    assert len({model.stats.runs for model in result.models}) == 1
    assert dense.stats.runs >= result.schedule.min_runs
    assert (result.batch, result.threads, result.device) == (3, 1, "cpu")
    assert dense.file_bytes == Path(dense.path).stat().st_size


def test_layers_line_up(result: BenchResult) -> None:
    rows = {row.layer: row for row in result.layers}
    assert not any("_lowrank" in name or "_linear" in name for name in rows)
    conv2 = rows["conv2"]
    assert all((conv2.ms[name] or 0) > 0 for name in ("dense", "low", "same"))
    assert set(conv2.speed_up) == {"low", "same"}
    assert result.layers[-1].layer == "(runtime)"


def test_json_round_trip(result: BenchResult, tmp_path: Path) -> None:
    text = to_json(result, tmp_path / "r.json")
    assert from_json(text) == result
    assert load_json(tmp_path / "r.json") == result
    data = json.loads(text)
    assert data["schema_version"] == 1
    assert data["machine"]["versions"]["onnxruntime"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no benchmark result"),
        ("[]", "is no benchmark result"),
        ('{"schema_version": 99}', "schema version 99, this program reads 1"),
        ('{"schema_version": 1}', "is no benchmark result"),
    ],
)
def test_other_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        from_json(text)


def test_markdown_holds_every_model_and_layer(result: BenchResult) -> None:
    text = to_markdown(result)
    lines = text.splitlines()
    assert "spinning off" in lines[0]
    assert f"onnxruntime {result.machine.versions['onnxruntime']}" in lines[0]
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table[: len(result.models) + 2]}) == 1
    low = next(line for line in table if line.startswith("| low |"))
    assert f"| {result.models[1].stats.median_ms:.3f} |" in low
    for row in result.layers:
        assert any(line.startswith(f"| {row.layer} |") for line in table)


def test_csv_holds_full_precision(result: BenchResult) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(result))))
    assert [row["name"] for row in rows] == ["dense", "low", "same"]
    assert float(rows[1]["median_ms"]) == result.models[1].stats.median_ms
    assert result.models[1].speed_up is not None
    assert float(rows[1]["speed_up_low"]) == result.models[1].speed_up.low
    assert rows[0]["speed_up_ratio"] == ""
    layers = list(csv.DictReader(io.StringIO(to_csv(result, "layers"))))
    assert [row["layer"] for row in layers] == [row.layer for row in result.layers]


def test_tables_print(result: BenchResult) -> None:
    stream = io.StringIO()
    Console(file=stream, width=250).print(model_table(result, True), layer_table(result))
    text = stream.getvalue()
    assert "95 % interval" in text
    assert "conv2" in text
    assert "load ms" in text
    stream = io.StringIO()
    Console(file=stream, width=250).print(model_table(result))
    assert "load ms" not in stream.getvalue()


def test_difference_by_hand() -> None:
    a = {"y": np.array([[1.0, 4.0], [3.0, 2.0]])}
    b = {"z": np.array([[1.0, 3.5], [1.0, 2.0]])}
    found = difference(a, b)
    assert found is not None
    assert (found.max_abs, found.max_rel, found.top1) == (2.0, 0.5, 0.5)
    assert difference(a, {"z": np.zeros((2, 3))}) is None
    flat = difference({"y": np.zeros(2)}, {"y": np.ones(2)})
    assert flat is not None
    assert (flat.max_rel, flat.top1) == (np.inf, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_only_one_model_cannot_compute_is_a_difference(bad: float) -> None:
    good, broken = {"y": np.array([[1.0, 2.0]])}, {"y": np.array([[1.0, bad]])}
    for one, other in ((good, broken), (broken, good)):
        found = difference(one, other)
        assert found is not None
        assert (found.max_abs, found.max_rel) == (np.inf, np.inf)
    same = difference(broken, {"y": np.array([[1.5, bad]])})
    assert same is not None
    assert (same.max_abs, same.max_rel) == (0.5, 0.5)


def test_a_single_model_and_given_feeds(tmp_path: Path) -> None:
    path = small_net(tmp_path / "one.onnx")
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16))
    found = compare([path], quick=True, per_layer=False, feeds={"data": images})
    assert (found.batch, len(found.models), found.layers) == (2, 1, ())
    assert [row.speed_up for row in layer_results({"one": {"conv1": 1.0}})] == [{}]


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [small_net(tmp_path / f / "net.onnx") for f in ("a", "b", "b")]
    found = compare(paths, quick=True, per_layer=False)
    assert [model.name for model in found.models] == ["a/net", "b/net#1", "b/net#2"]


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(DataError, match="at least one ONNX file"):
        compare([])


def test_machine_facts() -> None:
    found = machine_info()
    assert found.cores >= 1
    assert found.channel_block in (0, 8, 16)
    assert "CPUExecutionProvider" in found.providers
    assert set(found.versions) == {"python", "onnxruntime", "numpy"}
