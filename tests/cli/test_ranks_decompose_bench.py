"""The verbs ranks, decompose and bench."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from caffe_bridge.errors import VerifyError
from caffe_bridge.net import Net
from tests.cli.nets import NET, call

Capture = pytest.CaptureFixture[str]
DECOMPOSE = ("decompose", "net.prototxt", "net.caffemodel", "-o", "low")


def ranks(capsys: Capture, *more: object) -> dict[str, int]:
    found: dict[str, int] = call(capsys, *DECOMPOSE, *more, "--json", "--no-onnx").json["ranks"]
    return found


def test_ranks_table(folder: Path, capsys: Capture) -> None:
    result = call(capsys, "ranks", "net.prototxt", "net.caffemodel", "--energy", 0.6)
    assert result.status == 0
    assert "mean rank ratio 50.0% over 1 layers" in result.out
    row = next(line for line in result.out.splitlines() if line.split()[:1] == ["conv1"])
    assert row.split()[1:4] == ["2", "4", "50.0%"]


def test_ranks_json(folder: Path, capsys: Capture) -> None:
    given = ("ranks", "net.prototxt", "net.caffemodel", "--json")
    assert [row["layer"] for row in call(capsys, *given).json] == ["conv1"]
    rows = call(capsys, *given, "--fc").json
    assert [row["layer"] for row in rows] == ["conv1", "ip"]
    assert all(row["rank_ratio"] == row["rank"] / row["num_output"] for row in rows)
    assert [row["layer"] for row in call(capsys, *given, "--layer", "ip").json] == ["ip"]
    energy = call(capsys, *given, "--energy", 0.6).json[0]["rank"]
    norm = call(capsys, *given, "--energy", 0.6, "--rule", "norm").json[0]["rank"]
    assert norm < energy


def test_ranks_of_foreign_weights_are_refused(folder: Path, capsys: Capture) -> None:
    Path("other.prototxt").write_text(NET.replace('name: "conv1"', 'name: "c1"'))
    result = call(capsys, "ranks", "other.prototxt", "net.caffemodel")
    assert result.status == 1
    assert "weights for none of its convolutions" in result.err


def test_decompose_writes_and_verifies(folder: Path, capsys: Capture) -> None:
    result = call(capsys, *DECOMPOSE, "--energy", 0.6)
    assert (result.status, result.err) == (0, "")
    names = {
        "lowrank.prototxt", "lowrank.caffemodel", "lowrank.onnx", "plan.json", "report.md",
    }  # fmt: skip
    assert {path.name for path in Path("low").iterdir()} == names
    assert "ONNX and low-rank net agree: worst output difference" in result.out
    report = Path("low/report.md").read_text()
    assert "| conv1 | pca | 2 | " in report
    assert "| ip | whole |" in report
    assert "- energy: 0.6\n" in report
    assert "ONNX against the low-rank net, worst output difference: " in report
    assert call(capsys, "verify", "low/lowrank.prototxt", "low/lowrank.caffemodel",
                "low/lowrank.onnx").status == 0  # fmt: skip


def test_sources_of_ranks(folder: Path, capsys: Capture) -> None:
    Path("ranks.json").write_text('{"conv1": 3}')
    assert ranks(capsys, "--energy", 0.6) == {"conv1": 2}
    assert ranks(capsys, "--ranks", "3") == {"conv1": 3}
    assert ranks(capsys, "--ranks", "ranks.json") == {"conv1": 3}
    assert ranks(capsys, "--config", "ranks.json") == {"conv1": 3}
    assert ranks(capsys, "--ranks", "3,2", "--fc") == {"conv1": 3, "ip": 2}


def test_an_edited_plan(folder: Path, capsys: Capture) -> None:
    ranks(capsys, "--energy", 0.6)
    plan = json.loads(Path("low/plan.json").read_text())
    plan["layers"][0]["rank"] = 1
    Path("mine.json").write_text(json.dumps(plan))
    assert ranks(capsys, "--plan", "mine.json") == {"conv1": 1}


@pytest.mark.parametrize("method", ["pca", "svd", "kmeans"])
def test_methods(method: str, folder: Path, capsys: Capture) -> None:
    report = call(capsys, *DECOMPOSE, "--ranks", 2, "--method", method, "--json").json
    assert report["worst"] <= 1e-4
    plan = json.loads(Path("low/plan.json").read_text())
    assert plan["layers"][0]["method"] == method
    assert Path(report["onnx"]).is_file()


def test_full_rank_computes_the_same(folder: Path, capsys: Capture) -> None:
    import torch

    assert ranks(capsys, "--ranks", 4) == {"conv1": 4}
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32))
    with torch.no_grad():
        want = Net("net.prototxt", weights="net.caffemodel")({"data": x})["prob"]
        got = Net("low/lowrank.prototxt", weights="low/lowrank.caffemodel")({"data": x})["prob"]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_except(folder: Path, capsys: Capture) -> None:
    Path("keep.json").write_text('["conv1"]')
    assert ranks(capsys, "--energy", 0.6, "--fc", "--except", "keep.json").keys() == {"ip"}
    result = call(capsys, "decompose", "net.prototxt", "net.caffemodel", "-o", "none", "--energy",
                  0.6, "--except", "keep.json")  # fmt: skip
    assert result.status == 1
    assert "no layer to decompose" in result.err
    assert "conv1: excepted" in result.err
    assert not Path("none").exists()


def test_hdf5(folder: Path, capsys: Capture) -> None:
    report = call(capsys, *DECOMPOSE, "--ranks", 2, "--hdf5", "--json").json
    assert report["weights"] == "low/lowrank.caffemodel.h5"
    assert report["worst"] <= 1e-4
    Net("low/lowrank.prototxt", weights=report["weights"])


@pytest.mark.parametrize("more", [[], ["--energy", "0.9", "--ranks", "2"]])
def test_exactly_one_source(more: list[str], folder: Path, capsys: Capture) -> None:
    result = call(capsys, *DECOMPOSE, *more)
    assert result.status == 2
    assert result.err.startswith("error: give exactly one of --energy, --ranks, --config, --plan")


@pytest.mark.parametrize("more", [["--method", "svd"], ["--except", "x.json"], ["--fc"]])
def test_options_without_effect_on_a_plan(more: list[str], folder: Path, capsys: Capture) -> None:
    ranks(capsys, "--energy", 0.6)
    result = call(capsys, *DECOMPOSE, "--plan", "low/plan.json", *more)
    assert result.status == 2
    assert f"{more[0]} has no effect on --plan" in result.err


def test_train_nets_are_decomposed_without_onnx(folder: Path, capsys: Capture) -> None:
    report = call(capsys, "decompose", "train_val.prototxt", "net.caffemodel", "-o", "low",
                  "--ranks", 2, "--json").json  # fmt: skip
    assert "onnx" not in report
    text = Path("low/lowrank.prototxt").read_text()
    assert text.count('type: "Data"') == 2


def test_a_net_that_cannot_be_built_is_decomposed_with_a_warning(
    folder: Path, capsys: Capture
) -> None:
    Path("odd.prototxt").write_text(NET.replace('"ReLU"', '"MyReLU"'))
    result = call(capsys, "decompose", "odd.prototxt", "net.caffemodel", "-o", "low", "--ranks", 2)
    assert result.status == 0
    assert result.err.startswith("warning: no ONNX file is written: relu1 (MyReLU) at ")
    assert not Path("low/lowrank.onnx").exists()


def test_a_wrong_onnx_is_an_error(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(*_: object, **__: object) -> None:
        raise VerifyError("low: differs by 3.")

    monkeypatch.setattr("caffe_bridge.onnx_export.verify.verify", differ)
    result = call(capsys, *DECOMPOSE, "--ranks", 2)
    assert (result.status, result.err) == (1, "error: low: differs by 3.\n")
    assert not Path("low/lowrank.onnx").exists()


def test_bench(folder: Path, capsys: Capture) -> None:
    assert call(capsys, "convert", "net.prototxt", "net.caffemodel", "-o", "net.onnx").status == 0
    assert call(capsys, *DECOMPOSE, "--ranks", 2).status == 0
    bench = ("bench", "net.onnx", "low/lowrank.onnx", "--quick", "--batch", 2)
    result = call(capsys, *bench, "--json", "--save", "bench.json")
    assert (result.status, result.err) == (0, "")
    report = result.json
    assert [m["name"] for m in report["models"]] == ["net", "lowrank"]
    assert report["batch"] == 2
    assert json.loads(Path("bench.json").read_text()) == report
    assert {row["layer"] for row in report["layers"]} > {"conv1", "ip", "prob"}
    result = call(capsys, *bench, "--no-layers")
    assert result.status == 0
    assert "lowrank" in result.out
    assert "…" not in result.out
    assert call(capsys, *bench, "--markdown").out.count("\n|") > 4


def test_bench_of_a_fixed_batch(folder: Path, capsys: Capture) -> None:
    assert call(capsys, "convert", "net.prototxt", "net.caffemodel", "-o", "s.onnx",
                "--static").status == 0  # fmt: skip
    result = call(capsys, "bench", "s.onnx", "--quick", "--batch", 3)
    assert result.status == 1
    assert "fixed batch size of 2, asked for 3" in result.err


def test_lowrank_onnx_has_the_names_of_the_pair(folder: Path, capsys: Capture) -> None:
    assert call(capsys, *DECOMPOSE, "--ranks", 2).status == 0
    names = [node.name for node in onnx.load("low/lowrank.onnx").graph.node]
    assert names[:2] == ["conv1_lowrank", "conv1_linear"]


def test_budget(folder: Path, capsys: Capture) -> None:
    report = call(capsys, *DECOMPOSE, "--budget", "macs=0.6", "--fc", "--json").json
    assert report["ranks"]
    plan = json.loads(Path("low/plan.json").read_text())
    assert plan["settings"]["macs_after"] <= 0.6 * plan["settings"]["macs_before"]
    assert report["worst"] <= 1e-4
    for more, message in (
        (["--budget", "half"], "write it as macs=0.5 or params=0.5"),
        (["--budget", "ms=0.5"], "budget unit is 'ms'"),
        (["--budget", "macs=0.5", "--method", "svd"], "--method has no effect on --budget"),
        (["--energy", "0.9", "--batches", "2"], "--batches has no effect without --calibrate"),
        (["--energy", "0.9", "--align", "x"], "--align x: give a positive integer, auto"),
    ):
        result = call(capsys, *DECOMPOSE, *more)
        assert result.status
        assert message in result.err


def test_calibrate(folder: Path, capsys: Capture) -> None:
    net = Net("net.prototxt", weights="net.caffemodel")
    random = np.random.default_rng(0)
    arrays = {k: random.random((2 * s[0], *s[1:]), np.float32) for k, s in net.inputs.items()}
    np.savez("in.npz", **arrays)
    report = call(capsys, *DECOMPOSE, "--ranks", 2, "--calibrate", "in.npz", "--json").json
    assert report["worst"] <= 1e-4
    plan = json.loads(Path("low/plan.json").read_text())
    assert plan["settings"]["data_aware"] == "asymmetric"
    result = call(capsys, *DECOMPOSE, "--ranks", 2, "--calibrate", "data")
    assert "is fed by the caller; give an npz" in result.err


@pytest.mark.parametrize(
    ("verb", "given", "stem"), [("decompose", ("--ranks", 2), "lowrank"), ("shrink", (), "shrunk")]
)
def test_a_folder_that_holds_the_input_or_an_older_net(
    verb: str, given: tuple[object, ...], stem: str, folder: Path, capsys: Capture
) -> None:
    Path(f"{stem}.prototxt").write_bytes(Path("net.prototxt").read_bytes())
    Path(f"{stem}.caffemodel.h5").symlink_to("net.caffemodel")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for net, more, name in ((f"{stem}.prototxt", (), f"{stem}.prototxt"),
                            ("net.prototxt", ("--hdf5",), f"{stem}.caffemodel.h5")):  # fmt: skip
        result = call(capsys, verb, net, "net.caffemodel", "-o", ".", *given, *more)
        assert result.status == 1
        assert result.err == f"error: {name}: would overwrite the input; give another folder.\n"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    again = (verb, "net.prototxt", "net.caffemodel", "-o", "low", *given)
    assert call(capsys, *again).status == 0
    assert Path("low", f"{stem}.onnx").is_file()
    assert call(capsys, *again, "--no-onnx").status == 0
    assert not Path("low", f"{stem}.onnx").exists()


def test_excepted_layers_are_names(folder: Path, capsys: Capture) -> None:
    Path("keep.json").write_text('["conv1", 3]')
    for source in (("--ranks", 2), ("--budget", "macs=0.5")):
        result = call(capsys, "decompose", "net.prototxt", "net.caffemodel", "-o", "low", *source,
                      "--except", "keep.json")  # fmt: skip
        assert result.status == 1
        assert 'keep.json: should hold layers as ["conv1"], found ["conv1", 3].' in result.err
