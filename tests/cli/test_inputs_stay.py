"""Commands write over none of their inputs, and refuse options that would do nothing."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge.data import write_datums
from tests.cli.nets import call

Capture = pytest.CaptureFixture[str]

TRAIN_LOG = """I0101 00:00:00.000000 1 solver.cpp:228] Iteration 0, loss = nan
I0101 00:00:00.000000 1 solver.cpp:244]     Train net output #0: loss = nan (* 1 = nan loss)
I0101 00:00:00.000000 1 sgd_solver.cpp:106] Iteration 0, lr = 0.01
"""
CLASSIFY = ("classify", "net.prototxt", "net.caffemodel", "cat.png")
SENSITIVITY = ("sensitivity", "net.prototxt", "net.caffemodel", "--data", "x.npz")
QUANTIZE = ("quantize", "net.prototxt", "net.caffemodel", "--calibrate", "x.npz")
SURGERY = ("fc-to-conv", "net.prototxt", "net.caffemodel")
RUN = ("run", "net.prototxt", "net.caffemodel", "--feed", "data=x.npy")


@pytest.fixture
def inputs(folder: Path) -> Path:
    cv2.imwrite("cat.png", np.zeros((6, 6, 3), np.uint8))
    Path("windows.csv").write_text("filename,ymin,xmin,ymax,xmax\ncat.png,0,0,5,5\n")
    Path("train.log").write_text(TRAIN_LOG)
    np.save("x.npy", np.ones((2, 3, 6, 6), np.float32))
    np.savez("x.npz", data=np.ones((2, 3, 6, 6), np.float32))
    write_datums("db", np.zeros((2, 3, 6, 6), np.uint8), [0, 1], backend="lmdb")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        (*CLASSIFY, "-o", "net.caffemodel"),
        (*CLASSIFY, "-o", "cat.png"),
        ("detect", "net.prototxt", "net.caffemodel", "windows.csv", "windows.csv"),
        ("detect", "net.prototxt", "net.caffemodel", "windows.csv", "net.caffemodel"),
        ("compute-image-mean", "db", "db/data.mdb"),
        ("convert-weights", "net.caffemodel", "net.caffemodel"),
        ("convert-weights", "net.caffemodel", "net.prototxt", "--net", "net.prototxt"),
        (*QUANTIZE, "-o", "x.npz"),
        (*SENSITIVITY, "--save", "x.npz"),
        ("train", "--solver", "solver.prototxt", "--log", "train.prototxt"),
        ("draw", "net.prototxt", "net.prototxt"),
        ("plot-log", "train.log", "-o", "train.log"),
    ],
    ids=lambda words: f"{words[0]}-{words[-1]}",
)
def test_an_input_is_not_written_over(
    words: tuple[str, ...], inputs: Path, capsys: Capture
) -> None:
    before = {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()}
    result = call(capsys, *words)
    assert (result.status, result.err.count("would overwrite the input")) == (1, 1), result
    assert {path: path.read_bytes() for path in before} == before


def test_two_outputs_are_two_files(inputs: Path, capsys: Capture) -> None:
    result = call(capsys, *SURGERY, "same", "same")
    assert result.status == 1
    assert "same: is given for net and weights" in result.err
    assert not Path("same").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*RUN, "--scale", "0.01"), "--scale has no effect without a picture"),
        ((*RUN, "--mean", "1,2,3"), "--mean has no effect without a picture"),
        ((*QUANTIZE, "-o", "q.onnx", "--mean", "1"), "--mean has no effect without a folder"),
        (("train", "--solver", "solver.prototxt", "--clip-until", "5"), "without --clip-energy"),
        (("train", "--solver", "solver.prototxt", "--caffe-resume"), "without --snapshot"),
        (("convert", "net.prototxt", "net.caffemodel", "-o", "n.onnx", "--seed", "3"),
         "--seed has no effect without --verify"),
        (("bench", "n.onnx", "--align", "8"), "--align has no effect without --paper"),
        (("draw", "net.prototxt", "n.svg", "--phase", "ALL", "--level", "1"), "--level has no"),
    ],
)  # fmt: skip
def test_idle_options_are_refused(
    words: tuple[str, ...], told: str, inputs: Path, capsys: Capture
) -> None:
    result = call(capsys, *words)
    assert result.status == 2
    assert told in result.err


def test_a_picture_takes_mean_and_scale(inputs: Path, capsys: Capture) -> None:
    given = ("run", "net.prototxt", "net.caffemodel", "--feed", "data=cat.png", "--scale", "0.5")
    assert call(capsys, *given, "--mean", "1,2,3").status == 0


def test_json_has_no_nan(inputs: Path, capsys: Capture) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    out = call(capsys, "parse-log", "train.log", "--json").out
    found = json.loads(out, parse_constant=refuse)
    assert found["train"][0]["loss"] is None


def test_tables_of_a_log_make_their_folder(inputs: Path, capsys: Capture) -> None:
    assert call(capsys, "parse-log", "train.log", "tables").status == 0
    assert sorted(path.name for path in Path("tables").iterdir()) == [
        "train.log.test", "train.log.train",
    ]  # fmt: skip


def test_nets_and_solvers_are_told_apart(inputs: Path, capsys: Capture) -> None:
    result = call(capsys, "upgrade-solver", "net.prototxt", "out")
    assert (result.status, "is a net; use upgrade-net" in result.err) == (1, True)
    result = call(capsys, "upgrade-net", "solver.prototxt", "out")
    assert (result.status, "is a solver; use upgrade-solver" in result.err) == (1, True)
    assert not Path("out").exists()
    assert call(capsys, "upgrade-net", "net.prototxt", "out").status == 0
    assert call(capsys, "upgrade-solver", "solver.prototxt", "out").status == 0
