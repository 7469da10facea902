"""Speed at given ranks, on a net small enough to time at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caffe_bridge.cli.main import main
from caffe_bridge.experiment.speed import load_speed
from caffe_bridge.graph import read_net
from tests.shared import REPO

NET = """
layer { name: "data" type: "Input" top: "data"
        input_param { shape { dim: 1 dim: 4 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
        convolution_param { num_output: 40 kernel_size: 3 weight_filler { type: "msra" } } }
"""


def write(folder: Path, **changed: Any) -> None:
    recipe = folder / "alexnet"
    recipe.mkdir(parents=True, exist_ok=True)
    (recipe / "deploy.prototxt").write_text(NET)
    paper = {"cpu": {"conv2": 2.5, "(whole)": 2.0}, "gpu": {"conv2": 1.5}}
    data = {
        "kind": "speed", "title": "tiny", "deploy": "deploy.prototxt", "seed": 1, "batches": [1, 2],
        "threads": [1],
        "nets": [
            {"name": "mixed", "error": "1 %", "paper": paper,
             "ranks": {"conv1": {"method": "spatial", "rank": 3}, "conv2": 5}},
            {"name": "unknown", "error": "2 %", "paper": {"cpu": {"conv1": 9.0}}, "ranks": {}},
        ],
    }  # fmt: skip
    (recipe / "experiment.json").write_text(json.dumps(data | changed))


def call(folder: Path, *more: str) -> int:
    return main(["reproduce", "alexnet-speed", str(folder / "out"), "--recipes",
                 str(folder / "recipes"), "--quick", *more])  # fmt: skip


def test_nets_are_timed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "recipes")
    assert call(tmp_path) == 0
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    models = document["results"]["onnx"]["models"]
    assert set(models) == {"dense", "mixed", "mixed, aligned"}
    assert models["mixed"]["ranks"] == {"conv1": 3, "conv2": 5}
    assert models["mixed, aligned"]["ranks"]["conv2"] > 5
    runs = document["results"]["bench"]["runs"]
    assert [(run["batch"], len(run["models"])) for run in runs] == [(1, 3), (2, 3)]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| mixed | conv2 | 5 |" in text
    assert "| 2.50x | 1.50x |" in text
    assert "| unknown | 2 % | not found | not found | 9.00x |" in text
    before = {p: (tmp_path / "out" / p).read_bytes() for p in ("report.html", "report.md")}
    assert call(tmp_path, "--report-only") == 0
    assert before == {p: (tmp_path / "out" / p).read_bytes() for p in before}
    capsys.readouterr()
    assert call(tmp_path) == 0
    assert capsys.readouterr().out.count("already done") == 2


def test_a_wrong_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "recipes", kind="other")
    assert call(tmp_path) == 1
    assert "wants the entries batches, deploy" in capsys.readouterr().err


def test_the_shipped_file_fits_its_net() -> None:
    made = load_speed(REPO / "solvers" / "alexnet" / "experiment.json")
    net = read_net(REPO / "solvers" / "alexnet" / made["deploy"])
    names = {layer.name for layer in net.layer}
    for entry in made["nets"]:
        assert set(entry["ranks"]) <= names
