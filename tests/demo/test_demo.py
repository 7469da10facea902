"""The demo at a tiny scale: every stage, the report, resuming, reproducibility."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from caffe_bridge.cli.main import main
from caffe_bridge.schema import load_weights, read_text

ARGUMENTS = ("--scale", "0.02", "--quick")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", str(folder), *ARGUMENTS]) == 0
    return folder


def numbers(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())["results"]


def test_every_artefact_that_the_report_links_exists(demo: Path) -> None:
    html = (demo / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'href="([^"#]+)"', html)
    assert len(links) > 20
    assert [link for link in links if not (demo / link).exists()] == []


def test_the_report_is_self_contained_and_has_pictures(demo: Path) -> None:
    html = (demo / "report.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 4
    assert not re.search(r"(src|href)=\"https?://", html)
    assert "<script" not in html


def test_results_hold_what_the_report_shows(demo: Path) -> None:
    found = numbers(demo)
    assert found["data"]["train_lmdb"] + found["data"]["test_lmdb"] == 1797
    for name in ("baseline", "continued", "force", "finetune_baseline", "finetune_force"):
        assert 0 <= found[name]["accuracy"] <= 1
    assert set(found["ranks"]["tables"]["force"]) == {"conv1", "conv2", "conv3"}
    assert max(model["worst"] for model in found["onnx"]["models"].values()) < 1e-4


def test_written_files_are_caffe_s(demo: Path) -> None:
    solver = read_text(demo / "force" / "solver.prototxt", "SolverParameter")
    assert solver.force_type == "Degradation"
    assert solver.force_decay > 0
    net = read_text(demo / "force_lowrank" / "train_test.prototxt", "NetParameter")
    names = {layer.name for layer in net.layer}
    assert {"conv2_lowrank", "conv2_linear"} <= names
    assert "conv2_lowrank" in load_weights(demo / "force_lowrank" / "lowrank.caffemodel").blobs


def test_a_second_run_does_nothing_again(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (demo / "stages" / "baseline.json").stat().st_mtime_ns
    assert main(["demo", str(demo), *ARGUMENTS]) == 0
    assert capsys.readouterr().out.count("already done") == 10
    assert (demo / "stages" / "baseline.json").stat().st_mtime_ns == before


def test_a_lost_stage_and_all_after_it_are_done_again(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    want = numbers(demo)
    (demo / "stages" / "force.json").unlink()
    assert main(["demo", str(demo), *ARGUMENTS]) == 0
    assert capsys.readouterr().out.count("already done") == 3
    got = numbers(demo)
    for name in ("force", "ranks", "decompose", "finetune_force"):
        assert got[name] == want[name], name


def test_the_same_seed_gives_the_same_result(demo: Path, tmp_path: Path) -> None:
    assert main(["demo", str(tmp_path / "again"), *ARGUMENTS]) == 0
    mine, theirs = numbers(tmp_path / "again"), numbers(demo)
    for name in ("baseline", "continued", "force", "ranks", "decompose", "finetune_force"):
        assert mine[name] == theirs[name], name
