"""Plans by measured time and the paper's tables on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffe_bridge.compress.latency.paper import PaperRow
from tests.cli.nets import call

Capture = pytest.CaptureFixture[str]
PLAN = ("plan", "net.prototxt", "net.caffemodel", "-o", "plan.json", "--cache", "times.json")
DECOMPOSE = ("decompose", "net.prototxt", "net.caffemodel", "-o", "low")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_net_too_small_to_gain(folder: Path, capsys: Capture) -> None:
    result = call(capsys, *PLAN, "--target-speedup", 50, "--batch", 2, "--seconds", 5)
    assert result.status == 0
    plan = json.loads(Path("plan.json").read_text())
    assert plan["settings"]["reached"] is False
    assert plan["settings"]["verdict"] in result.err.replace("\n", " ")
    assert "do not suffice" not in result.out or plan["layers"][0]["method"] != "whole"
    strict = call(capsys, *PLAN, "--target-speedup", 50, "--batch", 2, "--seconds", 5, "--strict")
    assert strict.status == 3
    assert Path("times.json").is_file()


def test_a_budget_in_milliseconds_that_holds(folder: Path, capsys: Capture) -> None:
    given = ("--budget-ms", 1e6, "--batch", 2, "--seconds", 5, "--strict")
    report = call(capsys, *DECOMPOSE, *given, "--json")
    assert report.status == 0
    assert report.json["measured"]["reached"] is True
    assert report.json["ranks"] == {}
    assert "is within the budget" in report.json["measured"]["verdict"]
    assert Path("low/lowrank.onnx").is_file()
    shown = call(capsys, *DECOMPOSE, *given)
    assert "ms before" in shown.out
    assert "is within the budget" in shown.out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--budget-ms", 3, "--target-speedup", 2], "give exactly one of --energy, --ranks"),
        (["--budget-ms", 3, "--align", "auto"], "--align has no effect with --budget-ms"),
        (["--target-speedup", 2, "--fc"], "--fc has no effect with --target-speedup"),
        (["--energy", 0.9, "--strict"], "--strict has no effect without --target-speedup"),
        (["--energy", 0.9, "--seconds", 9], "--seconds has no effect without --target-speedup"),
    ],
)
def test_contradictions(
    given: list[object], message: str, folder: Path, capsys: Capture
) -> None:  # fmt: skip
    result = call(capsys, *DECOMPOSE, *given)
    assert result.status == 2
    assert message in result.err


class Stub:
    """Stands for the measurement of AlexNet."""

    def __init__(self, table: str, _folder: Path, block: int, *_: object) -> None:
        self.paths = {"whole": 0, table: block}

    def measure(self, batch: int, threads: int) -> list[PaperRow]:
        head = ("L2 force", "conv3", "pca", 128, True, batch, threads)
        return [
            PaperRow(*head, 2.5, 10.0, 5.0, 2.0, 2.45, 2.16, 2.65),
            PaperRow("L2 force", "(whole net)", "", 0, True, batch, threads, 1.4, 40.0, 32.0, 1.25,
                     None, None, None),
        ]  # fmt: skip


def test_paper_tables(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffe_bridge.compress.latency.paper_report.PaperBench", Stub)
    result = call(capsys, "bench", "--paper", "table4", "--align", "none", "--save", "t.json")
    assert result.status == 0
    for batch in (1, 32):
        for threads in (1, 2):
            assert f"table4: batch {batch}, {threads} thread(s)" in result.out
    row = next(line.split() for line in result.out.splitlines() if " conv3 " in line)
    assert row == ["L2", "force", "conv3", "pca", "128", "10.000", "5.000", "2.00x", "2.50x", "80",
                   "2.45x", "2.16x", "2.65x"]  # fmt: skip
    assert "not found" in result.out
    report = json.loads(Path("t.json").read_text())
    assert report["rows"][0]["share"] == 0.8
    assert report["block"] == 0
    assert len(report["rows"]) == 8
    one = ("bench", "--paper", "table6", "--batch", 8, "--threads", 1, "--align", 8)
    assert call(capsys, *one, "--json").json["block"] == 8
    text = call(capsys, *one, "--markdown").out
    assert "### table6: batch 8, 1 thread(s)" in text
    assert "paper, ranks not found: ours +0.17" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["net.onnx", "--batch", "1,2"], "go with --paper only"),
        (["--paper", "table4", "--batch", "0"], "--batch '0': write integers of 1 or more"),
        (["--paper", "table4", "--align", "x"], "--align x: give a positive integer, auto or none"),
        ([], "give either ONNX files or --paper"),
    ],
)
def test_wrong_bench(given: list[str], message: str, folder: Path, capsys: Capture) -> None:
    result = call(capsys, "bench", *given)
    assert result.status in (1, 2)
    assert message in result.err
