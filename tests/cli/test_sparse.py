"""prune, sparsity, shrink, quantize and train --keep-zeros, from the command line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from caffe_bridge.net import Net
from caffe_bridge.schema import load_weights
from tests.cli.nets import call


def test_the_journey_of_a_sparse_net(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = call(capsys, "prune", "net.prototxt", "net.caffemodel", "--unit", "filter",
                "--sparsity", "0.5", "--layer", "conv1", "-o", "m.caffemodel")  # fmt: skip
    assert made.status == 0, made.err
    assert "conv1" in made.out and "50.0%" in made.out
    trained = call(capsys, "train", "--solver", "solver.prototxt", "--weights", "m.caffemodel",
                   "--keep-zeros", "--quiet", "--json").json  # fmt: skip
    rows = call(capsys, "sparsity", "train.prototxt", trained["weights"], "--json").json
    assert [row["layer"] for row in rows] == ["conv1", "ip"]
    assert (rows[0]["filter"], rows[0]["row"], rows[1]["element"]) == (0.5, 0.5, 0)
    assert rows[0]["theoretical_speedup"] == 2
    assert "zero" in call(capsys, "sparsity", "net.prototxt", trained["weights"]).out
    small = call(capsys, "shrink", "net.prototxt", trained["weights"], "--out", "s", "--json").json
    assert small["worst"] <= 1e-5 and small["onnx_worst"] <= 1e-5
    assert small["onnx_bytes"][1] < small["onnx_bytes"][0]
    assert small["onnx_bytes"][1] == Path("s/shrunk.onnx").stat().st_size
    net = Net("s/shrunk.prototxt", weights="s/shrunk.caffemodel")
    assert tuple(net.layer("conv1").blobs[0].shape) == (2, 3, 3, 3)
    shown = call(capsys, "shrink", "net.prototxt", trained["weights"], "--out", "s", "--hdf5")
    assert "4 -> 2" in shown.out and Path("s/shrunk.caffemodel.h5").is_file()


def test_without_keep_zeros_the_zeros_train(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, "prune", "net.prototxt", "net.caffemodel", "--threshold", "0.1", "-o", "m.h5")
    assert (load_weights("m.h5").blobs["ip"][0].array() == 0).any()  # type: ignore[union-attr]
    done = call(capsys, "train", "--solver", "solver.prototxt", "--weights", "m.h5", "--quiet",
                "--json").json  # fmt: skip
    rows = call(capsys, "sparsity", "net.prototxt", done["weights"], "--json").json
    assert all(row["element"] == 0 for row in rows)


def test_shrink_of_a_net_with_data_layers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "prune", "train_val.prototxt", "net.caffemodel", "--unit", "row", "--sparsity",
         "0.5", "--layer", "conv1", "-o", "m.caffemodel")  # fmt: skip
    shapes = ["--input", "data=2,3,6,6", "--input", "label=2"]
    made = call(capsys, "shrink", "train_val.prototxt", "m.caffemodel", "-o", "s", *shapes)
    assert made.status == 0, made.err
    assert "no ONNX file" in made.err or "onnx:" in made.out
    text = Path("s/shrunk.prototxt").read_text()
    assert "num_output: 2" in text and text.count('"Data"') == 2


def test_quantize_on_every_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.savez("x.npz", data=rng.standard_normal((6, 3, 6, 6)), label=rng.integers(0, 5, 6))
    Path("pictures").mkdir()
    for i in range(4):
        cv2.imwrite(f"pictures/{i}.png", rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    more = {"pictures": ["--mean", "128", "--scale", "0.01"], "x.npz": ["--method", "minmax"],
            "train.prototxt": ["--batches", "2", "--range", "reduced"]}  # fmt: skip
    for source, options in more.items():
        made = call(capsys, "quantize", "net.prototxt", "net.caffemodel", "--calibrate", source,
                    *options, "--out", "q.onnx", "--json").json  # fmt: skip
        onnx.checker.check_model(onnx.load("q.onnx"))
        assert made["bytes"] == Path("q.onnx").stat().st_size
        assert made["balanced"] == []
        assert made["agreement"]["items"] == {"pictures": 4, "x.npz": 6}.get(source, 40)
        assert made["agreement"]["relative"] < 0.1
        assert (made["agreement"]["accuracy_int8"] is None) == (source == "pictures")
    shape = ["--input", "data=4,3,6,6", "--output-blob", "ip"]
    own = call(capsys, "quantize", "train.prototxt", "net.caffemodel", "--calibrate", "data",
               *shape, "-o", "q.onnx", "--json")  # fmt: skip
    assert own.json["agreement"]["output"] == "ip" and own.json["agreement"]["items"] == 40
    shown = call(capsys, "quantize", "net.prototxt", "net.caffemodel", "--calibrate", "x.npz",
                 "--exclude", "conv1", "-o", "q.onnx")  # fmt: skip
    assert "same largest entry" in shown.out and "accuracy: float" in shown.out


def test_quantize_balances_low_rank_pairs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "decompose", "net.prototxt", "net.caffemodel", "--ranks", "3", "-o", "low")
    np.savez("x.npz", data=np.random.default_rng(0).standard_normal((4, 3, 6, 6)))
    arguments = ["quantize", "low/lowrank.prototxt", "low/lowrank.caffemodel", "--calibrate",
                 "x.npz", "-o", "q.onnx"]  # fmt: skip
    made = call(capsys, *arguments)
    assert "balanced conv1_lowrank and conv1_linear" in made.out
    assert "balanced" not in call(capsys, *arguments, "--no-balance").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "-o", "m.caffemodel"], "either --sparsity or --threshold"),
        (["prune", "-o", "m.caffemodel", "--sparsity", "0.5", "--unit", "block"], "--block RxC"),
        (["prune", "-o", "m.caffemodel", "--sparsity", "0.5", "--block", "2x2"], "--block RxC"),
        (["prune", "-o", "m.caffemodel", "--sparsity", "2"], "sparsity is 2"),
        (["prune", "-o", "no/m.caffemodel", "--sparsity", "0.5"], "folder does not exist"),
        (["sparsity", "--layer", "relu1"], "no statistics"),
        (["quantize", "-o", "q.onnx", "--calibrate", "absent.npz"], "absent.npz: no such npz"),
        (["quantize", "-o", "q.onnx", "--calibrate", "net.prototxt"], "make none, not data"),
        (["quantize", "-o", "q.onnx", "--calibrate", "bad.npz"], "needs an array 'data'"),
        (["quantize", "-o", "q.onnx", "--calibrate", "empty"], "holds no items"),
    ],
)
def test_refusals(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("empty").mkdir()
    np.savez("bad.npz", x=np.zeros((2, 3)))
    verb, *rest = arguments
    done = call(capsys, verb, "net.prototxt", "net.caffemodel", *rest)
    assert done.status in (1, 2) and message in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("m.caffemodel").exists() and not Path("q.onnx").exists()
