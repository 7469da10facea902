"""The verbs inspect, init and run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge.graph import load_net
from caffe_bridge.net import Net
from tests.cli.nets import NET, call

Capture = pytest.CaptureFixture[str]


def test_inspect_table(folder: Path, capsys: Capture) -> None:
    result = call(capsys, "inspect", "net.prototxt")
    assert result.status == 0
    row = next(line for line in result.out.splitlines() if line.split()[:1] == ["conv1"])
    assert row.split() == ["conv1", "Convolution", "conv1", "2x4x4x4", "112", "3.46", "k", "exact"]
    assert "5 layers, 437 parameters, 4,096 MACs" in result.out


def test_inspect_json(folder: Path, capsys: Capture) -> None:
    report = call(capsys, "inspect", "net.prototxt", "--json", "--input", "data=1,3,6,6").json
    assert report["supported"] is True
    assert [layer["name"] for layer in report["layers"]][-1] == "prob"
    assert report["layers"][-1]["shapes"] == [[1, 5]]


def test_inspect_reports_unsupported_layers(folder: Path, capsys: Capture) -> None:
    Path("odd.prototxt").write_text(NET.replace('"ReLU"', '"ReLUX"'))
    result = call(capsys, "inspect", "odd.prototxt")
    assert result.status == 1
    assert "problem: relu1 (ReLUX) at odd.prototxt:7: layer type 'ReLUX' is not known" in result.out
    assert "unsupported" in result.out
    assert "no shape" in result.out
    assert call(capsys, "inspect", "odd.prototxt", "--json").status == 1


def test_inspect_reports_wiring(folder: Path, capsys: Capture) -> None:
    Path("odd.prototxt").write_text(NET.replace('bottom: "ip"', 'bottom: "none"'))
    result = call(capsys, "inspect", "odd.prototxt")
    assert result.status == 1
    assert "problem: prob (Softmax)" in result.out


def test_inspect_lists_unknown_fields(folder: Path, capsys: Capture) -> None:
    Path("odd.prototxt").write_text(NET + 'layer { name: "s" type: "Silence" bottom: "prob" x: 3 }')
    result = call(capsys, "inspect", "odd.prototxt")
    assert result.status == 0
    assert "unknown field kept: layer[s].x (line 13)" in result.out


def test_inspect_phases_levels_and_stages(folder: Path, capsys: Capture) -> None:
    rules = 'include { phase: TRAIN min_level: 2 stage: "a" }'
    Path("odd.prototxt").write_text(
        NET + f'layer {{ name: "s" type: "Silence" bottom: "prob" {rules} }}'
    )
    inspect = ("inspect", "odd.prototxt", "--json")
    train = call(capsys, *inspect, "--phase", "TRAIN", "--level", 2, "--stage", "a").json
    names = [layer["name"] for layer in train["layers"]]
    assert names[-1] == "s"
    names = [layer["name"] for layer in call(capsys, *inspect).json["layers"]]
    assert names[-1] == "prob"


def test_inspect_prints_brackets_of_names_as_they_are(folder: Path, capsys: Capture) -> None:
    Path("odd.prototxt").write_text(NET.replace('"conv1"', '"conv[/b]"'))
    result = call(capsys, "inspect", "odd.prototxt")
    assert result.status == 0
    assert "conv[/b]" in result.out


def test_inspect_of_data_layers_needs_no_data_when_replaced(folder: Path, capsys: Capture) -> None:
    result = call(capsys, "inspect", "train_val.prototxt", "--input", "data=1,3,6,6", "--input",
                  "label=1")  # fmt: skip
    assert result.status == 0


def test_names_that_are_not_utf8(folder: Path) -> None:
    third, fourth = b'"\xb2\xe3\xc8\xfd"', b'"\xb2\xe3\xcb\xc4"'
    text = NET.encode().replace(b'"conv1"', third).replace(b'"ip"', fourth)
    Path("gbk.prototxt").write_bytes(text)
    run = [sys.executable, "-m", "caffe_bridge"]
    for arguments, words in (
        (["inspect", "gbk.prototxt"], rb"\udcb2\udce3\udccb\udcc4"),
        (["inspect", "gbk.prototxt", "--json"], rb'"\udcb2\udce3\udccb\udcc4"'),
        (["init", "gbk.prototxt", "-o", "gbk.caffemodel"], b"parameters"),
        (["convert", "gbk.prototxt", "gbk.caffemodel", "-o", "gbk.onnx", "--verify"], b"verified"),
        (["draw", "gbk.prototxt", "gbk.png"], b"gbk.png"),
        (["draw", "gbk.prototxt", "gbk.svg"], b"gbk.svg"),
        (["draw", "gbk.prototxt", "gbk.dot"], b"gbk.dot"),
    ):
        done = subprocess.run(run + arguments, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), done
        assert words in done.stdout
    assert rb"\xb2\xe3\xcb\xc4" in Path("gbk.svg").read_bytes()


def test_init_is_seeded(folder: Path, capsys: Capture, weights: bytes) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = call(capsys, "init", "net.prototxt", "-o", f"{name}.caffemodel", "--seed", seed)
        assert result.status == 0
        assert result.out == f"{name}.caffemodel: 437 parameters, {len(weights):,} bytes, " \
                             f"seed {seed}\n"  # fmt: skip
    a, b, c = (Path(f"{name}.caffemodel").read_bytes() for name in "abc")
    assert a == b == weights
    assert a != c


def test_init_hdf5_holds_the_same(folder: Path, capsys: Capture) -> None:
    report = call(capsys, "init", "net.prototxt", "-o", "net.caffemodel.h5", "--json").json
    assert report["parameters"] == 437
    assert report["bytes"] == Path("net.caffemodel.h5").stat().st_size
    binary, hdf5 = (Net("net.prototxt", weights=f"net.caffemodel{end}") for end in ("", ".h5"))
    for one, two in zip(binary.learnable, hdf5.learnable, strict=True):
        assert np.array_equal(one.value.detach(), two.value.detach())


def outputs(array: np.ndarray) -> np.ndarray:
    import torch

    net = Net(load_net("net.prototxt"), weights="net.caffemodel")
    with torch.no_grad():
        result: np.ndarray = net({"data": torch.from_numpy(array)})["prob"].numpy()
    return result


def test_run_npy(folder: Path, capsys: Capture) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)
    np.save("x.npy", x)
    want = outputs(x)
    report = call(capsys, "run", "net.prototxt", "net.caffemodel", "--feed", "data=x.npy", "--json",
                  "--top", 2, "--save", "all.npz").json  # fmt: skip
    assert report["prob"]["shape"] == [2, 5]
    for row, found in zip(want, report["prob"]["top"], strict=True):
        assert [item["index"] for item in found] == list(np.argsort(-row)[:2])
        assert found[0]["value"] == pytest.approx(float(row.max()))
    saved = np.load("all.npz")
    assert sorted(saved.files) == ["conv1", "data", "ip", "prob"]
    np.testing.assert_array_equal(saved["prob"], want)
    assert saved["conv1"].min() == 0


def test_run_prints_rows(folder: Path, capsys: Capture) -> None:
    np.save("x.npy", np.zeros((1, 3, 6, 6)))
    result = call(capsys, "run", "net.prototxt", "net.caffemodel", "--feed", "data=x.npy")
    assert result.status == 0
    assert result.out.startswith("prob (1, 5)\n  [0] ")
    assert result.out.count(": 0.2") == 5


@pytest.mark.parametrize("mean", [[], [104.5], [104.0, 117.0, 123.5]], ids=["none", "one", "each"])
def test_run_picture(mean: list[float], folder: Path, capsys: Capture) -> None:
    picture = np.random.default_rng(1).integers(0, 255, (6, 6, 3), np.uint8)
    cv2.imwrite("cat.png", picture)
    x = (picture.astype(np.float32) - np.array(mean or [0], np.float32)) * 0.01
    want = outputs(np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32))
    report = call(capsys, "run", "net.prototxt", "net.caffemodel", "--feed", "data=cat.png",
                  "--mean", ",".join(map(str, mean)), "--scale", 0.01, "--json").json  # fmt: skip
    assert report["prob"]["top"][0][0]["value"] == pytest.approx(float(want.max()), rel=1e-5)


def test_run_resizes_and_reads_grey_pictures(folder: Path, capsys: Capture) -> None:
    cv2.imwrite("cat.png", np.full((9, 12, 3), 50, np.uint8))
    Path("grey.prototxt").write_text(NET.replace("dim: 3", "dim: 1"))
    assert call(capsys, "init", "grey.prototxt", "-o", "grey.caffemodel").status == 0
    result = call(capsys, "run", "grey.prototxt", "grey.caffemodel", "--feed", "data=cat.png")
    assert result.status == 0


def test_run_reads_names_that_are_not_utf8(folder: Path, capsys: Capture) -> None:
    cv2.imwrite("cat.png", np.full((6, 6, 3), 50, np.uint8))
    name = Path("cat.png").rename(os.fsdecode(b"caf\xe9.png"))
    result = call(capsys, "run", "net.prototxt", "net.caffemodel", "--feed", f"data={name}")
    assert result.status == 0


def test_run_warns_about_missing_weights(folder: Path, capsys: Capture) -> None:
    np.save("x.npy", np.zeros((1, 3, 6, 6)))
    Path("other.prototxt").write_text(NET.replace('name: "ip"', 'name: "ip2"'))
    result = call(capsys, "run", "other.prototxt", "net.caffemodel", "--feed", "data=x.npy")
    assert result.status == 0
    assert result.err == (
        "warning: net.caffemodel has no weights for ip2; they keep the values of their fillers.\n"
    )


def test_run_warns_about_a_picture_that_is_cut_off(folder: Path, capfd: Capture) -> None:
    picture = np.random.default_rng(1).integers(0, 255, (60, 60, 3), np.uint8)
    cv2.imwrite("cat.jpg", picture)
    data = Path("cat.jpg").read_bytes()
    Path("cat.jpg").write_bytes(data[: len(data) // 2])
    result = call(capfd, "run", "net.prototxt", "net.caffemodel", "--feed", "data=cat.jpg")
    assert result.status == 0
    assert result.err.startswith("warning: cat.jpg: ")
    assert "remature end" in result.err
