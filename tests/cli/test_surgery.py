from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffe_bridge.cli.main import main
from caffe_bridge.graph import read_net
from caffe_bridge.net import Net
from tests.compress.checks import GAUSS

NET = f"""layer {{ name: "x" type: "Input" top: "x"
  input_param {{ shape {{ dim: 1 dim: 4 dim: 6 dim: 6 }} }} }}
layer {{ name: "a" type: "Convolution" bottom: "x" top: "a"
  convolution_param {{ num_output: 4 kernel_size: 3 group: 2 {GAUSS} }} }}
layer {{ name: "n" type: "BatchNorm" bottom: "a" top: "a" }}
layer {{ name: "f" type: "InnerProduct" bottom: "a" top: "f"
  inner_product_param {{ num_output: 3 {GAUSS} }} }}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    net = Net("net.prototxt", seed=0)
    net.layer("n").blobs[2].data.fill_(1.0)
    net.layer("n").blobs[1].data.fill_(2.0)
    net.save("net.caffemodel")
    return tmp_path


@pytest.mark.parametrize(
    ("verb", "changed", "types"),
    [
        ("split-groups", ["a"], ["Slice", "Convolution", "Convolution", "Concat", "BatchNorm",
                                 "InnerProduct"]),
        ("fc-to-conv", ["f"], ["Convolution", "BatchNorm", "Convolution"]),
        ("fold-bn", ["n"], ["Convolution", "InnerProduct"]),
    ],
)  # fmt: skip
def test_verbs(
    verb: str, changed: list[str], types: list[str], folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = (verb, "net.prototxt", "net.caffemodel", "o.prototxt", "o.caffemodel.h5")
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["changed"] == changed
    assert found["worst"] <= 1e-5
    assert [layer.type for layer in read_net("o.prototxt").layer][1:] == types
    assert Net("o.prototxt", weights="o.caffemodel.h5").missing == []


def test_merging_undoes_splitting(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = ("net.prototxt", "net.caffemodel", "s.prototxt", "s.caffemodel")
    assert main(["split-groups", *first, "--layer", "a"]) == 0
    assert main(["merge-groups", *first[2:], "m.prototxt", "m.caffemodel"]) == 0
    assert read_net("m.prototxt") == read_net("net.prototxt")
    assert Path("m.caffemodel").read_bytes() == Path("net.caffemodel").read_bytes()
    capsys.readouterr()
    assert main(["merge-groups", *first[:2], "o.prototxt", "o.caffemodel"]) == 1
    assert capsys.readouterr().err == "error: net.prototxt: nothing to change.\n"
    assert not Path("o.prototxt").exists()


def test_an_output_over_an_input_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("net.prototxt", "net.caffemodel", "o.prototxt", "net.caffemodel")
    assert main(["fold-bn", *given]) == 1
    assert "would overwrite the input" in capsys.readouterr().err
