"""The verbs that replace Caffe's tools and scripts."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge.data import open_records, write_datums
from caffe_bridge.graph import read_net
from caffe_bridge.schema import load_weights, read_blob, read_text
from tests.cli.nets import call

pytestmark = pytest.mark.usefixtures("folder")
Capture = pytest.CaptureFixture[str]
OLD = """input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 blobs_lr: 2
  convolution_param { num_output: 2 kernel_size: 3 } } fork_field: 3
"""


def picture(name: str, size: tuple[int, int] = (8, 9)) -> str:
    values = np.random.default_rng(len(name)).integers(0, 255, (*size, 3)).astype(np.uint8)
    cv2.imwrite(name, values)
    return name


def test_upgrade_net(capsys: Capture) -> None:
    Path("old.prototxt").write_text(OLD)
    done = call(capsys, "upgrade-net", "old.prototxt", "new.prototxt")
    assert done.status == 0
    assert "unknown field kept: fork_field (line 3)" in done.err
    new = read_text("new.prototxt", "NetParameter")
    assert [layer.type for layer in new.layer] == ["Input", "Convolution"]
    assert [p.lr_mult for p in new.layer[1].param] == [1, 2]
    assert read_net("new.prototxt") == new


def test_upgrade_net_keeps_weights(capsys: Capture) -> None:
    assert call(capsys, "upgrade-net", "net.caffemodel", "new.caffemodel").status == 0
    old, new = load_weights("net.caffemodel").blobs, load_weights("new.caffemodel").blobs
    assert old.keys() == new.keys()
    for name in old:
        for one, other in zip(old[name], new[name], strict=True):
            assert one is not None and other is not None
            np.testing.assert_array_equal(one.array(), other.array())


def test_upgrade_solver(capsys: Capture) -> None:
    Path("old.prototxt").write_text('net: "n.prototxt" solver_type: ADAM')
    assert call(capsys, "upgrade-solver", "old.prototxt", "new.prototxt").status == 0
    assert read_text("new.prototxt", "SolverParameter").type == "Adam"


def test_convert_imageset_then_mean(capsys: Capture) -> None:
    names = [picture(f"{i}.png") for i in range(3)]
    Path("list.txt").write_text("".join(f"{n} {i}\n" for i, n in enumerate([*names, "no.png"])))
    done = call(capsys, "convert-imageset", "./", "list.txt", "db", "--resize-height", "4",
                "--resize-width", "5")  # fmt: skip
    assert (done.status, done.out) == (0, "db: 3 records\n")
    assert "no.png cannot be read" in done.err
    shown = call(capsys, "compute-image-mean", "db", "mean.binaryproto")
    assert shown.status == 0
    assert shown.out.count("mean_value of channel") == 3
    resized = [cv2.resize(cv2.imread(n), (5, 4)).transpose(2, 0, 1) for n in names]
    mean = read_blob("mean.binaryproto").array()
    np.testing.assert_allclose(mean[0], np.mean(resized, 0), rtol=1e-5)
    assert "is no data base" in call(capsys, "compute-image-mean", "list.txt").err


def test_extract_features(capsys: Capture) -> None:
    write_datums("test_lmdb", np.zeros((4, 3, 6, 6), np.uint8), range(4))
    done = call(capsys, "extract-features", "net.caffemodel", "train_val.prototxt", "ip,conv1",
                "ip_db,conv_db", "2", "--json")  # fmt: skip
    assert done.status == 0, done.err
    reader = open_records("ip_db", "lmdb")
    assert reader.count() == 8
    reader.close()
    wrong = call(
        capsys, "extract-features", "net.caffemodel", "train_val.prototxt", "ip", "a,b", "1"
    )
    assert wrong.err == "error: 1 blobs but 2 data bases; give one each.\n"


@pytest.mark.parametrize("name", ["net.svg", "net.png", "net.dot"])
def test_draw(capsys: Capture, name: str) -> None:
    assert call(capsys, "draw", "net.prototxt", name, "--rankdir", "LR").out == f"{name}\n"
    assert Path(name).stat().st_size > 500


def test_classify(capsys: Capture) -> None:
    Path("labels.txt").write_text("\n".join(["red", "green", "blue", "grey", "black"]))
    done = call(capsys, "classify", "net.prototxt", "net.caffemodel", picture("a.png"),
                picture("bb.png"), "--image-dims", "8,8", "--mean", "1,2,3", "--labels",
                "labels.txt", "--top", "2", "-o", "scores.npy")  # fmt: skip
    assert done.status == 0, done.err
    scores = np.load("scores.npy")
    assert scores.shape == (2, 5)
    best = Path("labels.txt").read_text().split()[scores[0].argmax()]
    assert done.out.splitlines()[0] == "a.png"
    assert done.out.splitlines()[1] == f"  {scores[0].max():.4f}  {best}"
    Path("labels.txt").write_text("one")
    short = call(
        capsys, "classify", "net.prototxt", "net.caffemodel", "a.png", "--labels", "labels.txt"
    )
    assert "has 1 lines for 5 classes" in short.err


def test_detect(capsys: Capture) -> None:
    picture("a.png", (20, 20))
    Path("w.csv").write_text("filename,ymin,xmin,ymax,xmax\na.png,1,2,11,12\na.png,0,0,9,9\n")
    done = call(capsys, "detect", "net.prototxt", "net.caffemodel", "w.csv", "out.csv")
    assert done.out == "out.csv: 2 windows of 1 pictures\n", done.err
    with open("out.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert sum(float(rows[0][str(i)]) for i in range(5)) == pytest.approx(1, abs=1e-4)
    Path("w.csv").write_text("file,box\n")
    assert "needs the columns" in call(capsys, "detect", "net.prototxt", "net.caffemodel",
                                       "w.csv", "o.csv").err  # fmt: skip


def test_our_own_log_is_parsed_and_plotted(capsys: Capture) -> None:
    call(capsys, "train", "--solver", "solver.prototxt", "--quiet", "--log", "run.log")
    done = call(capsys, "parse-log", "run.log")
    assert done.status == 0, done.err
    with open("run.log.train") as stream:
        train = list(csv.DictReader(stream))
    assert [row["NumIters"] for row in train] == ["0", "2", "4", "6"]
    assert all(row["SmoothedLoss"] for row in train)
    assert train[0]["LearningRate"] == "0.05"
    with open("run.log.test") as stream:
        assert [row["NumIters"] for row in csv.DictReader(stream)] == ["0", "3", "6"]
    plotted = call(capsys, "plot-log", "run.log", "-o", "loss.png", "--y", "test:accuracy", "--y",
                   "train:SmoothedLoss")  # fmt: skip
    assert plotted.status == 0, plotted.err
    assert Path("loss.png").read_bytes().startswith(b"\x89PNG")


def test_convert_weights(capsys: Capture) -> None:
    assert call(capsys, "convert-weights", "net.caffemodel", "w.caffemodel.h5").status == 0
    done = call(
        capsys, "convert-weights", "w.caffemodel.h5", "back.caffemodel", "--net", "net.prototxt"
    )
    assert done.status == 0, done.err
    assert load_weights("back.caffemodel").types["conv1"] == "Convolution"


def test_dataset_without_files_is_one_sentence(capsys: Capture) -> None:
    assert "download the official files" in call(capsys, "dataset", "mnist", "none", "out").err
    Path("empty").mkdir()
    assert "has neither train-images" in call(capsys, "dataset", "mnist", "empty", "out").err
