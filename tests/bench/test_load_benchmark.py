"""The loading benchmark reads the same weights both ways and reports its targets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "load_caffemodel.py"
NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 100 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 50 weight_filler { type: "xavier" } } }
"""


def test_small_net(tmp_path: Path) -> None:
    net, report = tmp_path / "small.prototxt", tmp_path / "report.json"
    net.write_text(NET)
    done = subprocess.run(
        [sys.executable, SCRIPT, "--net", net, "--repeats", "1", "--json", report],
        capture_output=True,
        text=True,
    )
    found = json.loads(report.read_text())
    assert done.returncode == (0 if found["met"] else 1), done.stderr
    assert found["file_bytes"] > 4 * 50 * 101
    assert found["time_ratio"] == found["ours"]["load_s"] / found["peer"]["load_s"]
    assert found["targets"] == {"time_ratio": 0.35, "memory_ratio": 1.3}
    assert ("MISSED" in done.stdout) is not found["met"]
