"""Every session that is compared must not spin: idle threads would take the others' cores."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from caffe_bridge.bench import compare, make_session, profile_models
from caffe_bridge.compress.latency import Request, plan_for_time
from caffe_bridge.compress.latency.paper import PaperBench
from tests.bench.models import small_net
from tests.compress.checks import GAUSS, filled, net_text
from tests.shared import REPO

KEYS = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning")
TEXT = net_text(
    (1, 16, 12, 12),
    f'layer {{ name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param {{ '
    f"num_output: 32 kernel_size: 3 pad: 1 {GAUSS} }} }}",
)
#: Files that may open sessions: the one for timing, and those that only check or calibrate.
SESSIONS = {"bench/session.py", "onnx_export/verify.py", "onnx_export/quantize.py"}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The spinning settings of every session that is opened."""
    found: list[tuple[str, ...]] = []
    real = ort.InferenceSession

    def record(path: Any, options: ort.SessionOptions, *args: Any, **more: Any) -> Any:
        found.append(tuple(options.get_session_config_entry(key) for key in KEYS))
        return real(path, options, *args, **more)

    monkeypatch.setattr("caffe_bridge.bench.session.ort.InferenceSession", record)
    return found


def all_off(made: list[tuple[str, ...]], least: int) -> None:
    assert len(made) >= least
    assert set(made) == {("0", "0")}


def test_comparison_and_profile(made: list[tuple[str, ...]], tmp_path: Path) -> None:
    first, second = small_net(tmp_path / "a.onnx"), small_net(tmp_path / "b.onnx", lowrank=True)
    compare([first, second], quick=True)
    all_off(made, 4)
    made.clear()
    profile_models({"a": first}, runs=2)
    make_session(first, 2)
    all_off(made, 2)


def test_latency_table_and_whole_nets(made: list[tuple[str, ...]]) -> None:
    plan_for_time(*filled(TEXT), Request(1.2, methods=("pca",), seconds=5.0))
    all_off(made, 3)


def test_paper_tables(
    made: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two(_net: Any, path: Path, **_target: str) -> Path:
        return small_net(path)

    monkeypatch.setattr("caffe_bridge.compress.latency.paper.convert", two)
    bench = PaperBench("table4", tmp_path, 0, seconds=0.01)
    bench._whole(1, 1)
    all_off(made, 3)


def test_only_known_files_open_sessions() -> None:
    found = set()
    for path in (REPO / "caffe_bridge").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if "InferenceSession" in names:
            found.add(path.relative_to(REPO / "caffe_bridge").as_posix())
    assert found <= SESSIONS
    assert "bench/session.py" in found
