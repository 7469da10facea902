"""The benchmark of interleaved against solo medians reads every model both ways."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.bench.models import small_net
from tests.shared import REPO

SCRIPT = REPO / "benchmarks" / "interleaved_vs_solo.py"


def test_two_models(tmp_path: Path) -> None:
    models = [small_net(tmp_path / "a.onnx"), small_net(tmp_path / "b.onnx", lowrank=True)]
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, *models, "--threads", "1", "--seconds", "0.01", "--rounds", "1",
         "--json", report],
        capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(report.read_text())
    assert done.returncode == int(found["worst"] > found["target"]), done.stderr
    assert [row["model"] for row in found["rows"]] == ["a", "b"]
    for row in found["rows"]:
        assert row["difference"] == row["interleaved_ms"] / row["solo_ms"] - 1.0
    assert found["worst"] == max(abs(row["difference"]) for row in found["rows"])
    assert found["target"] == 0.1
