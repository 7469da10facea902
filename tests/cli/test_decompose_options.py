"""Options of decompose, ranks and tradeoff that say how ranks are rounded, fitted and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_bridge.bench import machine_info
from caffe_bridge.net import Net
from tests.cli.nets import BODY, DUMMY, HEAD, NET, PROB, call

Capture = pytest.CaptureFixture[str]
DECOMPOSE = ("decompose", "net.prototxt", "net.caffemodel", "-o", "low")
NORM = """layer { name: "bn" type: "BatchNorm" bottom: "conv1" top: "conv1" }
"""


def plan(folder: str = "low") -> dict[str, Any]:
    read = json.loads(Path(folder, "plan.json").read_text())
    return {"settings": read["settings"], **{e["layer"]: e for e in read["layers"]}}


def test_both_energy_rules_are_printed(folder: Path, capsys: Capture) -> None:
    given = ("ranks", "net.prototxt", "net.caffemodel", "--energy", 0.6)
    rows = {rule: call(capsys, *given, "--rule", rule, "--json").json[0]
            for rule in ("energy", "norm")}  # fmt: skip
    for row in rows.values():
        assert (row["rank_energy"], row["rank_norm"]) == (rows["energy"]["rank"],
                                                          rows["norm"]["rank"])  # fmt: skip
    result = call(capsys, *given)
    assert "by energy 0.6  by norm 0.6" in result.out
    line = next(x for x in result.out.splitlines() if x.split()[:1] == ["conv1"]).split()
    assert line[-2:] == [str(rows["energy"]["rank"]), str(rows["norm"]["rank"])]
    assert float(line[5]) == pytest.approx(rows["energy"]["energy"] ** 0.5, abs=1e-4)
    assert "0.6 of the norm, which is 0.36 of the energy" in result.out
    assert "by norm" not in call(capsys, *given, "--rule", "stable").out
    result = call(capsys, *DECOMPOSE, "--energy", 0.6, "--no-onnx")
    assert result.out.split()[:7] == [
        "layer", "method", "rank", "energy", "norm", "error", "theoretical",
    ]  # fmt: skip


def test_ranks_of_separable_forms_are_shares_of_their_largest(
    folder: Path, capsys: Capture
) -> None:
    given = ("ranks", "net.prototxt", "net.caffemodel", "--method", "spatial", "--energy", 1.0)
    row = call(capsys, *given, "--json").json[0]
    assert row["full"] == row["max_rank"] == row["rank"]
    assert row["rank_ratio"] == 1.0
    assert call(capsys, "ranks", "net.prototxt", "net.caffemodel", "--method", "tucker",
                "--plot", "t.svg").status == 0  # fmt: skip
    assert "<svg" in Path("t.svg").read_text()


def test_floor(folder: Path, capsys: Capture) -> None:
    evbmf = ("--energy", 1.0, "--rule", "evbmf", "--no-onnx")
    assert call(capsys, *DECOMPOSE, *evbmf, "--floor", "none").status == 0
    assert plan()["conv1"]["rank"] == 1
    assert call(capsys, *DECOMPOSE, *evbmf, "--floor", 3).status == 0
    assert plan()["conv1"]["rank"] == 3
    assert plan()["conv1"]["reason"].endswith("; rank 1 raised to the floor of 3")
    assert plan()["settings"]["floor"] == 3
    assert call(capsys, *DECOMPOSE, *evbmf).status == 0
    # By default a block of this processor, and never more than the layer has.
    assert plan()["conv1"]["rank"] == min(4, max(machine_info().channel_block, 1))
    rows = call(capsys, "ranks", "net.prototxt", "net.caffemodel", "--rule", "evbmf", "--energy",
                1.0, "--floor", 2, "--json").json  # fmt: skip
    assert rows[0]["rank"] == 2
    for more, message in (
        (["--energy", 0.9, "--floor", "x"], "--floor x: give a positive integer, auto or none"),
        (["--ranks", 2, "--floor", 2], "--floor has no effect without --energy"),
        (["--budget", "macs=0.5", "--only-smaller"], "--only-smaller has no effect without"),
    ):
        result = call(capsys, *DECOMPOSE, *more)
        assert result.status
        assert message in result.err


def test_what_does_not_save_is_said_or_left(folder: Path, capsys: Capture) -> None:
    result = call(capsys, *DECOMPOSE, "--ranks", 4, "--no-onnx")
    assert result.status == 0
    assert "warning: conv1: no fewer multiply-accumulates than before" in result.err
    result = call(capsys, *DECOMPOSE, "--ranks", 4, "--only-smaller", "--no-onnx")
    assert result.status == 1
    assert "conv1: rank 4 of 4 saves no multiply-accumulates" in result.err
    assert call(capsys, *DECOMPOSE, "--ranks", "4,1", "--fc", "--only-smaller").status == 0
    assert (plan()["conv1"]["method"], plan()["ip"]["rank"]) == ("whole", 1)


def test_numbers_of_an_edited_plan_are_those_of_its_ranks(folder: Path, capsys: Capture) -> None:
    assert call(capsys, *DECOMPOSE, "--ranks", "3,2", "--fc", "--no-onnx").status == 0
    data = json.loads(Path("low/plan.json").read_text())
    data["layers"][0] |= {"rank": 1, "ms_before": 2.0, "ms_after": 1.0}
    data["layers"][1] |= {"ms_after": 0.5}
    data["settings"] |= {"measured_speedup": 2.0, "net_ms_before": 3.0, "verdict": "reached"}
    Path("mine.json").write_text(json.dumps(data))
    before = plan()
    result = call(capsys, *DECOMPOSE, "--plan", "mine.json", "--no-onnx")
    assert result.status == 0
    after = plan()
    assert after["ip"] == before["ip"] | {"ms_after": 0.5}
    assert after["conv1"]["reason"] == "changed by hand"
    assert after["conv1"]["energy"] < before["conv1"]["energy"]
    assert after["conv1"]["error"] == pytest.approx((1 - after["conv1"]["energy"]) ** 0.5, 1e-4)
    assert after["conv1"]["theoretical_speedup"] > before["conv1"]["theoretical_speedup"]
    assert "ms_after" not in after["conv1"]
    assert "measured_speedup" not in after["settings"]
    assert after["settings"]["verdict"] == "changed by hand after it was measured"
    data["layers"][0] = {"layer": "conv1", "method": "whole", "ms_before": 2.0, "ms_after": 1.0}
    Path("mine.json").write_text(json.dumps(data))
    assert call(capsys, *DECOMPOSE, "--plan", "mine.json", "--no-onnx").status == 0
    assert "measured_speedup" not in plan()["settings"]
    call(capsys, *DECOMPOSE, "--ranks", 1, "--no-onnx")
    assert plan()["conv1"]["energy"] == after["conv1"]["energy"]
    Path("least.json").write_text('{"layers": [{"layer": "conv1", "method": "pca", "rank": 1}]}')
    assert call(capsys, *DECOMPOSE, "--plan", "least.json", "--no-onnx").status == 0
    assert plan()["conv1"]["energy"] == after["conv1"]["energy"]
    data["layers"][0] = {"layer": "conv1", "method": "pca", "rank": 9}
    Path("mine.json").write_text(json.dumps(data))
    assert "rank 9 is above 4" in call(capsys, *DECOMPOSE, "--plan", "mine.json").err


def inputs(name: str, count: int = 8) -> None:
    random = np.random.default_rng(0)
    np.savez(name, data=random.standard_normal((count, 3, 6, 6)).astype(np.float32))


def test_calibrating_on_the_data_of_another_prototxt(folder: Path, capsys: Capture) -> None:
    Path("data.prototxt").write_text(DUMMY)
    report = call(capsys, *DECOMPOSE, "--ranks", 2, "--calibrate", "data.prototxt", "--batches", 3,
                  "--json")  # fmt: skip
    assert report.status == 0
    assert plan()["settings"]["data_aware"] == "asymmetric"
    inputs("x.npz")
    more = ("--ranks", 2, "--calibrate", "x.npz", "--symmetric", "--no-onnx")
    assert call(capsys, *DECOMPOSE, *more).status == 0
    assert plan()["settings"]["data_aware"] == "symmetric"
    assert plan()["conv1"]["reason"].endswith("symmetric fit to responses")
    result = call(capsys, *DECOMPOSE, "--ranks", 2, "--symmetric")
    assert result.status == 2
    assert "--symmetric has no effect without --calibrate" in result.err
    more = ("--ranks", 2, "--method", "spatial", "--calibrate", "x.npz", "--no-onnx")
    assert "--calibrate had no effect" in call(capsys, *DECOMPOSE, *more).err
    more = ("--ranks", 2, "--calibrate", "x.npz", "--symmetric", "--no-onnx")
    assert call(capsys, *DECOMPOSE, *more).err == ""
    # Without data the same plan is fitted to the weights, and says so.
    assert call(capsys, "decompose", "net.prototxt", "net.caffemodel", "-o", "again", "--plan",
                "low/plan.json", "--no-onnx").status == 0  # fmt: skip
    assert plan("again")["conv1"]["reason"] == "fitted to weights"


def test_ranks_of_the_responses(folder: Path, capsys: Capture) -> None:
    flat = np.ones((8, 3, 6, 6), np.float32)
    flat[:, 1:] = 0
    flat *= np.linspace(1, 2, 8, dtype=np.float32)[:, None, None, None]
    np.savez("flat.npz", data=flat)
    # One direction of inputs: a single rank holds all that varies, whatever the weights say.
    more = ("--energy", 0.99, "--fc", "--calibrate", "flat.npz", "--no-onnx")
    assert call(capsys, *DECOMPOSE, *more).status == 0
    assert plan()["conv1"]["rank"] > 1
    assert call(capsys, *DECOMPOSE, *more, "--response-ranks").status == 0
    assert plan()["conv1"]["rank"] == plan()["ip"]["rank"] == 1
    assert plan()["settings"]["ranks_of"] == "responses"
    assert plan()["conv1"]["reason"].startswith("responses keep 0.99 by rule energy; ")
    assert call(capsys, *DECOMPOSE, *more, "--response-ranks", "--align", 2).status == 0
    assert plan()["conv1"]["rank"] == 2
    assert call(capsys, *DECOMPOSE, *more, "--response-ranks", "--floor", 3).status == 0
    assert plan()["conv1"]["rank"] == 3
    assert "; rank 1 raised to the floor of 3; " in plan()["conv1"]["reason"]
    result = call(capsys, *DECOMPOSE, *more, "--response-ranks", "--floor", 4, "--only-smaller")
    assert result.status == 0
    assert "saves no multiply-accumulates" in plan()["conv1"]["reason"]
    assert plan()["settings"]["force_whole_if_not_smaller"] is True
    for wrong in (("--ranks", 2, "--calibrate", "flat.npz"), ("--energy", 0.9)):
        result = call(capsys, *DECOMPOSE, *wrong, "--response-ranks")
        assert result.status == 2
        assert "--response-ranks has no effect without" in result.err


def test_recalibration_after_decomposition(folder: Path, capsys: Capture) -> None:
    text = HEAD + BODY.replace('layer { name: "relu1"', NORM + 'layer { name: "relu1"') + PROB
    Path("bn.prototxt").write_text(text)
    Net("bn.prototxt", seed=0).save("bn.caffemodel")
    inputs("x.npz")
    given = ("decompose", "bn.prototxt", "bn.caffemodel", "-o", "low", "--ranks", 2)
    result = call(capsys, *given, "--recalibrate", "x.npz", "--json")
    assert result.status == 0, result.err
    assert result.json["recalibrated"] == ["bn"]
    assert plan()["settings"]["recalibrated"] == ["bn"]
    net = Net("low/lowrank.prototxt", "TEST", weights="low/lowrank.caffemodel")
    alone = text.split('layer { name: "relu1"')[0].replace(NORM, "")
    Path("conv.prototxt").write_text(alone)
    call(capsys, "decompose", "conv.prototxt", "bn.caffemodel", "-o", "c", "--ranks", 2)
    conv = Net("c/lowrank.prototxt", weights="c/lowrank.caffemodel")
    x = np.load("x.npz")["data"].reshape(4, 2, 3, 6, 6)
    import torch

    with torch.no_grad():
        values = np.concatenate([conv({"data": torch.from_numpy(part)})["conv1"] for part in x])
    mean, variance, factor = (blob.detach().numpy() for blob in net.layer("bn").blobs)
    np.testing.assert_allclose(mean / factor, values.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(variance / factor, values.var((0, 2, 3), ddof=1), rtol=1e-3)
    result = call(capsys, *DECOMPOSE, "--ranks", 2, "--recalibrate", "x.npz")
    assert result.status == 1
    assert "--recalibrate found no BatchNorm layer" in result.err


def test_forms_of_the_onnx_file_are_measured(folder: Path, capsys: Capture) -> None:
    more = ("--ranks", 2, "--target", "ort-cpu", "--measure", "--threads", 1, "--batch", 2)
    report = call(capsys, *DECOMPOSE, *more, "--json").json
    assert [row["layer"] for row in report["forms"]] == ["ip"]
    assert report["from_portable"] <= 1e-5
    result = call(capsys, *DECOMPOSE, "--ranks", 2, "--measure")
    assert result.status == 2
    assert "add --target ort-cpu" in result.err
    result = call(capsys, *DECOMPOSE, "--ranks", 2, "--threads", 2)
    assert "--threads has no effect" in result.err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--plan", "p.json", "--align", 16], "--align has no effect on --plan"),
        (["--plan", "p.json", "--rule", "norm"], "--rule has no effect on --plan"),
        (["--ranks", 2, "--rule", "norm"], "--rule has no effect with --ranks"),
    ],
)
def test_options_that_a_source_of_ranks_does_not_read(
    given: list[object], message: str, folder: Path, capsys: Capture
) -> None:
    result = call(capsys, *DECOMPOSE, *given)
    assert (result.status, message in result.err) == (2, True), result.err


def test_messages_name_the_config_file(folder: Path, capsys: Capture) -> None:
    for text, message in (
        ('{"conv1": 9}', "mine.json: conv1 (Convolution) at net.prototxt:3: rank 9 is above 4"),
        ('{"conv9": 2}', "mine.json: net.prototxt has no layer 'conv9'. Did you mean conv1?"),
        ('{"relu1": 2}', "mine.json: relu1 (ReLU) cannot be decomposed: type ReLU has no weight"),
        ('{"conv1": "x"}', 'mine.json: conv1: rank is "x"; give a positive integer'),
    ):
        Path("mine.json").write_text(text)
        result = call(capsys, *DECOMPOSE, "--config", "mine.json")
        assert (result.status, message in result.err) == (1, True), result.err


def test_a_shared_weight_says_why_its_rank_is_not_wanted(folder: Path, capsys: Capture) -> None:
    text = NET.replace('top: "ip"\n', 'top: "ip" param { name: "w" }\n') + (
        'layer { name: "ip2" type: "InnerProduct" bottom: "conv1" top: "ip2" param { name: "w" } '
        "inner_product_param { num_output: 5 } }\n"
    )
    Path("shared.prototxt").write_text(text)
    Net("shared.prototxt", seed=0).save("shared.caffemodel")
    result = call(capsys, "decompose", "shared.prototxt", "shared.caffemodel", "-o", "low",
                  "--ranks", "2,2", "--fc")  # fmt: skip
    assert result.status == 1
    assert "ip stays: its weight 'w' is shared with ip2" in result.err


def test_points_of_plans_in_one_folder_are_told_apart(folder: Path, capsys: Capture) -> None:
    for name, x in (("slow.json", 1.2), ("fast.json", 1.6)):
        settings = {"measured_speedup": x, "predicted_error": x / 10}
        Path(name).write_text(json.dumps({"settings": settings, "layers": []}))
    Path("three").mkdir()
    Path("three/plan.json").write_text(Path("slow.json").read_text())
    assert call(capsys, "tradeoff", "slow.json", "fast.json", "three/plan.json", "-o",
                "t.svg").status == 0  # fmt: skip
    drawn = Path("t.svg").read_text()
    assert all(f">{label}</text>" in drawn for label in ("slow", "fast", "three"))


def test_accuracy_against_time(folder: Path, capsys: Capture) -> None:
    inputs("x.npz")
    for rank, gain in ((1, 2.0), (3, 1.5)):
        call(capsys, "decompose", "net.prototxt", "net.caffemodel", "-o", str(rank), "--ranks",
             rank, "--no-onnx")  # fmt: skip
        path = Path(str(rank), "plan.json")
        data = json.loads(path.read_text())
        data["settings"] |= {
            "measured_speedup": gain,
            "net_ms_before": 6.0,
            "net_ms_after": 6 / gain,
        }
        path.write_text(json.dumps(data))
    given = ("tradeoff", "1/plan.json", "3/plan.json", "--judge", "net.prototxt", "net.caffemodel",
             "x.npz", "-o", "t.svg")  # fmt: skip
    whole, low, high = call(capsys, *given, "--json").json
    assert whole == {"name": "whole", "series": "", "measured_speedup": 1.0, "agreement": 1.0,
                     "error": 0.0}  # fmt: skip
    assert (low["name"], low["measured_speedup"]) == ("1", 2.0)
    assert low["error"] > high["error"] > 0
    assert low["agreement"] <= high["agreement"] <= 1
    given = (*given, "--x", "net_ms_after", "--y", "error")
    assert [p["net_ms_after"] for p in call(capsys, *given, "--json").json] == [6.0, 3.0, 4.0]
    result = call(capsys, *given)
    assert result.status == 0
    assert all(word in Path("t.svg").read_text() for word in ("whole", "net ms after", "error"))
    Path("alone.json").write_text('{"settings": {"measured_speedup": 2.0}, "layers": []}')
    result = call(capsys, "tradeoff", "alone.json", *given[3:])
    assert result.status == 1
    assert "wants the plan.json of a folder" in result.err


def test_timed_plans_take_scans(folder: Path, capsys: Capture) -> None:
    inputs("x.npz")
    for method in ("pca", "spatial"):
        assert call(capsys, "sensitivity", "net.prototxt", "net.caffemodel", "--data", "x.npz",
                    "--method", method, "--layer", "conv1", "--save",
                    f"{method}.json").status == 0  # fmt: skip
    more = ("--target-speedup", 1.5, "--seconds", 1)
    given = (
        "plan",
        "net.prototxt",
        "net.caffemodel",
        *more,
        "--cache",
        "times.json",
        "-o",
        "p.json",
    )
    scans = ("--sensitivity", "pca.json", "--sensitivity", "spatial.json")
    made = call(capsys, *given, *scans, "--json").json
    assert made["settings"]["errors"] == "measured at ip"
    reasons = {entry["layer"]: entry["reason"] for entry in made["layers"]}
    assert reasons["ip"] == "not in the sensitivity scan"
    report = call(capsys, *DECOMPOSE, *more, "--sensitivity", "pca.json", "--json").json
    assert report["measured"]["errors"] == "measured at ip"
    result = call(capsys, *given, "--sensitivity", "net.prototxt")
    assert result.status == 1
    assert "is no sensitivity scan" in result.err
