from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_bridge.cli.main import main
from caffe_bridge.compress import LayerPlan, Plan, as_weights_of, rewrite
from caffe_bridge.compress.budget import budget_plan
from caffe_bridge.compress.calibration import array_feeds
from caffe_bridge.compress.judge import Judge, judged_blob
from caffe_bridge.compress.sensitivity import Point, Scan, losses, read_scan, scan_net
from caffe_bridge.errors import PlanError
from caffe_bridge.net import Net
from caffe_bridge.schema import Weights, format_text, parse_text
from tests.compress.checks import GAUSS, filled, net_text, outputs

Capture = pytest.CaptureFixture[str]
SHAPE = (4, 3, 6, 6)
TEXT = net_text(
    SHAPE,
    f'layer {{ name: "a" type: "Convolution" bottom: "x" top: "a" '
    f"convolution_param {{ num_output: 8 kernel_size: 3 {GAUSS} }} }}",
    'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }',
    f'layer {{ name: "f" type: "InnerProduct" bottom: "a" top: "f" '
    f"inner_product_param {{ num_output: 5 {GAUSS} }} }}",
    'layer { name: "p" type: "Softmax" bottom: "f" top: "p" }',
)


def images(count: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *SHAPE[1:])).astype(np.float32)


def scanned(**more: Any) -> Scan:
    record, weights = filled(TEXT)
    feeds = array_feeds(Net(record, weights=weights), {"x": images()})
    return scan_net(record, weights, feeds, **more)


def test_every_point_is_the_error_of_that_layer_alone() -> None:
    scan = scanned(levels=(0.25, 0.5, 1.0))
    assert [(p.layer, p.rank, p.most) for p in scan.points] == [
        ("a", 2, 8), ("a", 4, 8), ("a", 8, 8), ("f", 1, 5), ("f", 2, 5), ("f", 5, 5),
    ]  # fmt: skip
    assert (scan.blob, scan.scored, scan.whole) == ("f", "agreement", 1.0)
    for name in ("a", "f"):
        errors = [p.error for p in scan.points if p.layer == name]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-5
        assert scan.points[2].score == 1.0
    record, weights = filled(TEXT)
    net, blobs = rewrite(record, weights, Plan([LayerPlan("a", "pca", 2)]))
    low = outputs(format_text(net), as_weights_of(blobs), images())["f"]
    want = outputs(TEXT, weights, images())["f"]
    gap = np.linalg.norm(low - want) / np.linalg.norm(want)
    assert scan.points[0].error == pytest.approx(float(gap), rel=1e-4)
    agree = float((low.argmax(1) == want.argmax(1)).mean())
    assert scan.points[0].score == pytest.approx(agree)


def test_a_scan_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "scan.json"

    def stop(name: str, number: int, total: int) -> None:
        assert (name, total) == ("a" if number < 2 else "f", 4)
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scanned(levels=(0.5, 1.0), cache=path, progress=stop)
    assert len(read_scan(path).points) == 2
    data = json.loads(path.read_text())
    data["points"][0]["error"] = 0.125
    path.write_text(json.dumps(data))
    assert scanned(levels=(0.5, 1.0), cache=path).points[0].error == 0.125
    data["key"] = "another net's"
    path.write_text(json.dumps(data))
    assert scanned(levels=(0.5, 1.0), cache=path).points[0].error != 0.125


def test_what_is_judged() -> None:
    record, weights = filled(TEXT)
    assert judged_blob(Net(record, weights=weights)) == "f"
    record.layer = record.layer[:-2]
    assert judged_blob(Net(record, weights=weights)) == "a"


@pytest.mark.parametrize(
    "end",
    [
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "f" bottom: "y" top: "l" }',
        'layer { name: "l" type: "EuclideanLoss" bottom: "f" bottom: "f" }',
        'layer { name: "s" type: "Silence" bottom: "y" }',
    ],
)
def test_nets_that_end_in_a_loss_or_in_silence(end: str) -> None:
    label = 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 4 } } }'
    plain = TEXT[: TEXT.index('layer { name: "p"')]
    text = "\n".join([label, plain, end])
    record, weights = filled(text)
    net = Net(record, weights=weights)
    assert judged_blob(net) == "f"
    x = images()
    feeds = array_feeds(net, {"x": x, "y": np.zeros(16, np.float32)})
    changed = Weights("changed", dict(weights.blobs))
    blob, bias = changed.blobs["f"]
    noise = np.random.default_rng(2).standard_normal(blob.shape).astype(np.float32)
    changed.blobs["f"] = [replace(blob, values=blob.array() + noise / 8), bias]
    before, after = (outputs(plain, values, x)["f"] for values in (weights, changed))
    error, agreement = Judge(net, feeds)(Net(record, weights=changed))
    wanted = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert error == pytest.approx(wanted, rel=1e-4)
    assert agreement == np.mean(before.argmax(1) == after.argmax(1)) < 1


def test_refusals(tmp_path: Path) -> None:
    record, weights = filled(TEXT)
    with pytest.raises(PlanError, match="at least one batch"):
        scan_net(record, weights, [])
    with pytest.raises(PlanError, match=r"level 1\.5: give a share"):
        scanned(levels=(1.5,))
    with pytest.raises(PlanError, match="layer r cannot be scanned: it is no layer with a weight"):
        scanned(layers=["r"])
    with pytest.raises(PlanError, match="tucker has two ranks"):
        scanned(method="tucker", layers=["a"])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(PlanError, match="is no sensitivity scan"):
        read_scan(tmp_path / "x.json")


def test_losses_between_and_below_the_measured_ranks() -> None:
    points = (Point("a", 2, 8, 0.4, 1.0), Point("a", 4, 8, 0.5, 1.0), Point("a", 6, 8, 0.1, 1.0))
    loss = losses(Scan("f", "agreement", 1.0, "pca", points))["a"]
    apart = 0.01 * 0.25 / 8
    assert loss(6) == pytest.approx(0.01 + 2 * apart)
    assert loss(8) == 0.0
    assert loss(4) == pytest.approx(0.25 + 4 * apart)
    # The scan saw a smaller error here, which a lower rank cannot have.
    assert loss(2) == pytest.approx(0.25 + 6 * apart)
    assert loss(5) == pytest.approx(0.13 + 3 * apart)
    assert loss(7) == pytest.approx(0.005 + apart)
    assert loss(1) == pytest.approx(2 * loss(2))


def test_ranks_of_equal_measured_error_are_kept_while_the_budget_holds() -> None:
    record, weights = filled(TEXT)
    points = tuple(Point("a", rank, 8, 0.8, 1.0) for rank in (1, 2, 4, 6))
    scan = Scan("f", "agreement", 1.0, "pca", points)
    made = budget_plan(record, weights, unit="macs", keep=0.8, scan=scan)
    rank = {entry.layer: entry.rank for entry in made.layers}["a"]
    assert isinstance(rank, int)
    costs = made.settings
    assert rank > 1
    assert (
        costs["macs_after"] <= 0.8 * costs["macs_before"] < costs["macs_after"] * (rank + 1) / rank
    )


def test_a_budget_spares_the_layer_that_the_scan_calls_sensitive() -> None:
    record, weights = filled(TEXT)

    def plan(hard: str) -> dict[str, int]:
        points = tuple(
            Point(name, rank, most, (0.9 if name == hard else 0.001) * (1 - rank / most), 1.0)
            for name, most, ranks in (("a", 8, (1, 4, 7)), ("f", 5, (1, 2, 4))) for rank in ranks
        )  # fmt: skip
        scan = Scan("f", "agreement", 1.0, "pca", points)
        made = budget_plan(record, weights, unit="macs", keep=0.6, scan=scan)
        assert made.settings["errors"] == "measured at f"
        return {e.layer: e.rank or 99 for e in made.layers}  # type: ignore[misc]

    assert plan("a")["a"] > plan("f")["a"]
    only = Scan("f", "agreement", 1.0, "pca", (Point("a", 4, 8, 0.1, 1.0),))
    made = budget_plan(record, weights, keep=0.9, scan=only)
    assert {e.layer: e.reason for e in made.layers}["f"] == "not in the sensitivity scan"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(TEXT)
    Net("net.prototxt", seed=0).save("net.caffemodel")
    np.savez("x.npz", x=images())
    return tmp_path


def test_the_commands(folder: Path, capsys: Capture) -> None:
    given = ["net.prototxt", "net.caffemodel"]
    more = ["--data", "x.npz", "--levels", "0.5,1", "--save", "s.json", "--plot", "s.png"]
    assert main(["sensitivity", *given, *more, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [p["rank"] for p in found["points"]] == [4, 8, 2, 5]
    assert Path("s.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["sensitivity", *given, *more]) == 0
    assert "whole net: agreement 100.00%" in capsys.readouterr().out
    budget = ["--budget", "macs=0.6", "--sensitivity", "s.json", "--fc"]
    assert main(["decompose", *given, *budget, "-o", "low", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ranks"]
    assert main(["decompose", *given, "--energy", "0.9", "--sensitivity", "s.json", "-o", "x"]) == 2
    assert "--sensitivity has no effect without --budget" in capsys.readouterr().err
    assert main(["ranks", *given, "--fc", "--plot", "r.svg"]) == 0
    assert "<svg" in Path("r.svg").read_text()
    assert capsys.readouterr().out.endswith("r.svg\n")
    assert main(["ranks", *given, "--plot", "r.txt"]) == 1
    assert "a picture ends in .svg" in capsys.readouterr().err


def test_accuracy_is_used_where_the_net_has_it(folder: Path, capsys: Capture) -> None:
    text = TEXT.replace('type: "Softmax" bottom: "f" top: "p"',
                        'type: "Accuracy" bottom: "f" bottom: "y" top: "accuracy"')  # fmt: skip
    text = 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 4 } } }\n' + text
    Path("acc.prototxt").write_text(text)
    labels = np.random.default_rng(1).integers(0, 5, 16).astype(np.float32)
    np.savez("xy.npz", x=images(), y=labels)
    given = ["sensitivity", "acc.prototxt", "net.caffemodel", "--data", "xy.npz", "--json"]
    assert main([*given, "--levels", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["blob"], found["scored"]) == ("f", "accuracy")
    net = Net(parse_text(text, "NetParameter", "n"), weights="net.caffemodel")
    feeds = array_feeds(net, {"x": images(), "y": labels})
    scores = [float(net(feed)["accuracy"]) for feed in feeds]
    assert found["whole"] == pytest.approx(np.mean(scores))


def test_tradeoff(folder: Path, capsys: Capture) -> None:
    Path("r.json").write_text(json.dumps([
        {"name": "one", "series": "force", "ms": 2.0, "accuracy": 0.9},
        {"name": "two", "series": "baseline", "ms": 1.0, "accuracy": 0.8},
    ]))  # fmt: skip
    given = ["tradeoff", "r.json", "--x", "ms", "--y", "accuracy", "-o", "t.svg"]
    assert main(given) == 0
    drawn = Path("t.svg").read_text()
    assert all(word in drawn for word in ("one", "two", "force", "baseline", "accuracy"))
    capsys.readouterr()
    assert main(["tradeoff", "r.json", "-o", "u.svg"]) == 1
    assert "has no number 'measured_speedup'; its numbers are accuracy, ms" in (
        capsys.readouterr().err
    )
    assert not Path("u.svg").exists()
