"""convert and decompose for a target, chosen or measured."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from caffe_bridge.cli.common import target_option
from caffe_bridge.compress.latency import LatencyCache
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import TARGETS
from tests.cli.nets import call

Capture = pytest.CaptureFixture[str]
CONVERT = ("convert", "lrn.prototxt", "lrn.caffemodel", "-o", "lrn.onnx")
TEXT = """name: "lrn"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 100 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "LRN" bottom: "conv" top: "norm" lrn_param { alpha: 0.1 } }
layer { name: "scale" type: "Scale" bottom: "norm" top: "scale" }
layer { name: "ip" type: "InnerProduct" bottom: "scale" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@pytest.fixture
def lrn(folder: Path) -> Path:
    Path("lrn.prototxt").write_text(TEXT)
    Net("lrn.prototxt", seed=0).save("lrn.caffemodel")
    return folder


def ops() -> list[str]:
    return [node.op_type for node in onnx.load("lrn.onnx").graph.node]


def test_the_choices_are_the_targets() -> None:
    option = target_option(lambda: None).__click_params__[0]  # type: ignore[attr-defined]
    assert tuple(option.type.choices) == TARGETS


@pytest.mark.parametrize(
    ("target", "there", "absent"),
    [("portable", "Conv", "Gather"), ("ort-cpu", "Gather", "LRN"), ("ort-cuda", "LRN", "Gather")],
)
def test_targets(lrn: Path, capsys: Capture, target: str, there: str, absent: str) -> None:
    result = call(capsys, *CONVERT, "--target", target)
    assert (result.status, result.err) == (0, "")
    assert there in ops()
    assert absent not in ops()
    assert ("largest relative difference from the portable form" in result.out) == (
        target != "portable"
    )
    done = call(capsys, "verify", "lrn.prototxt", "lrn.caffemodel", "lrn.onnx")
    assert done.status == 0


def test_measured_forms(lrn: Path, capsys: Capture) -> None:
    done = call(capsys, *CONVERT, "--target", "ort-cpu", "--measure", "--threads", 1, "--json").json
    rows = {row["layer"]: row for row in done["forms"]}
    assert list(rows) == ["norm", "ip"]
    assert list(rows["norm"]["ms"]) == ["band", "operator", "windows", "average"]
    assert all(row["best"] in row["ms"] for row in rows.values())
    assert all(ms > 0 for row in rows.values() for ms in row["ms"].values())
    assert max(d for row in rows.values() for d in row["differences"].values()) <= 1e-5
    assert done["from_portable"] <= 1e-5
    assert done["batches"] == [1, 3]
    result = call(capsys, *CONVERT, "--target", "ort-cpu", "--measure")
    assert result.err.splitlines()[0].startswith("norm (LRN): band ")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--measure"], "--measure times forms on this processor; add --target ort-cpu"),
        (["--threads", "2"], "--threads has no effect without --measure"),
        (["--target", "gpu"], "'gpu' is not one of"),
    ],
)
def test_usage(lrn: Path, capsys: Capture, more: list[str], words: str) -> None:
    result = call(capsys, *CONVERT, *more)
    assert result.status == 2
    assert words in result.err
    assert not Path("lrn.onnx").exists()


def test_decompose_passes_the_target(lrn: Path, capsys: Capture) -> None:
    done = call(capsys, "decompose", "lrn.prototxt", "lrn.caffemodel", "--ranks", "2", "-o", "low",
                "--target", "ort-cpu", "--json").json  # fmt: skip
    model = onnx.load(done["onnx"])
    assert "Gather" in [node.op_type for node in model.graph.node]
    assert json.loads(Path("low/plan.json").read_text())


def test_plans_time_exports_for_the_target(lrn: Path, capsys: Capture) -> None:
    call(capsys, "plan", "lrn.prototxt", "lrn.caffemodel", "--target-speedup", 1.5, "--seconds", 2,
         "--target", "ort-cpu", "--cache", "times.json", "-o", "plan.json")  # fmt: skip
    assert LatencyCache(None, 1, "cpu", "ort-cpu").key.endswith(" | ort-cpu")
    settings = json.loads(Path("plan.json").read_text())["settings"]
    assert settings["onnx_target"] == "ort-cpu"


def test_bench_takes_files_as_they_are(lrn: Path, capsys: Capture) -> None:
    assert call(capsys, *CONVERT).status == 0
    result = call(capsys, "bench", "lrn.onnx", "--target", "ort-cpu")
    assert result.status == 2
    assert "--target goes with --paper only" in result.err
