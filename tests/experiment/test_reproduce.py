"""An experiment at a tiny scale on made-up digits: stages, resuming, report, reproducibility."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from caffe_bridge.cli.main import main
from caffe_bridge.experiment.spec import Goal
from caffe_bridge.experiment.summary import meets, verdicts
from caffe_bridge.schema import read_text
from tests.experiment.digits import FORCES, call, document, write_digits, write_recipes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    (folder / "data").mkdir()
    write_digits(folder / "data")
    write_recipes(folder / "recipes")
    assert call(folder, "out") == 0
    return folder


def test_every_net_has_its_numbers(place: Path) -> None:
    found = document(place / "out")["results"]
    dense = {"baseline_s1", "baseline_s2", "control_s1", "control_s2"}
    dense |= {f"{kind}_0.001_s{seed}" for kind in FORCES for seed in (1, 2)}
    dense |= {f"{kind}_0.0001_s1" for kind in FORCES}
    assert set(found["ranks"]["tables"]) == dense
    for key in dense:
        assert 0 <= found[key]["accuracy"] <= 1
    assert max(model["worst"] for model in found["onnx"]["models"].values()) < 1e-4
    assert len(found["bench"]["bench"]["models"]) == 19


def test_baseline_and_force_net_are_compared_at_the_same_ranks(place: Path) -> None:
    nets = document(place / "out")["results"]["decompose_s1"]["nets"]
    for kind in FORCES:
        assert nets[kind]["ranks"] == nets[f"baseline@{kind}"]["ranks"]
        assert nets[kind]["parameters"] == nets[f"baseline@{kind}"]["parameters"]
    net = read_text(place / "out" / nets["Constant"]["folder"] / "deploy.prototxt", "NetParameter")
    assert {"conv2_lowrank", "conv2_linear"} <= {layer.name for layer in net.layer}


def test_the_written_solver_has_the_stretched_schedule(place: Path) -> None:
    path = place / "out" / "Constant_0.001_s1" / "solver.prototxt"
    solver = read_text(path, "SolverParameter")
    assert list(solver.stepvalue) == [4, 6]
    assert solver.base_lr == pytest.approx(0.005)
    assert (solver.force_type, solver.max_iter) == ("Constant", 8)
    assert solver.force_decay == pytest.approx(1e-3)
    tuned = read_text(place / "out" / "finetune_control_s1" / "solver.prototxt", "SolverParameter")
    assert list(tuned.stepvalue) == [3, 4, 5, 5, 6]
    control = read_text(place / "out" / "control_s1" / "solver.prototxt", "SolverParameter")
    assert control.force_decay == 0


def test_a_report_is_rebuilt_from_results_alone(place: Path, tmp_path: Path) -> None:
    out = place / "out"
    (tmp_path / "results.json").write_bytes((out / "results.json").read_bytes())
    assert main(["reproduce", "lenet", str(tmp_path), "--report-only"]) == 0
    for name in ("report.html", "report.md", *(f"figures/{i}.svg" for i in range(1, 8))):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name
    html = (tmp_path / "report.html").read_text()
    assert html.count("<svg") == 7
    for figure in (tmp_path / "figures").glob("*.svg"):
        assert ElementTree.parse(figure).getroot().tag.endswith("svg")
    assert not re.search(r"(src|href)=\"https?://", html)
    assert "Fine-tuning from Constant" in html


def test_a_changed_sweep_runs_only_what_is_new(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"force_type": "Constant", "force_decay": [1e-4, 1e-3, 2e-3], "keep": 1e-3}
    write_recipes(place / "wider", sweep=[row, {**row, "force_type": "Degradation",
                                                "force_decay": [1e-4, 1e-3]}])  # fmt: skip
    before = document(place / "out")["results"]
    capsys.readouterr()
    assert call(place, "out", "--recipes", str(place / "wider")) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.endswith("...")]
    assert [line.split("] ")[1] for line in lines] == [
        "Constant_0.002, seed 1 ...", "measure the ranks ...",
    ]  # fmt: skip
    after = document(place / "out")["results"]
    assert after["finetune_Constant_s1"] == before["finetune_Constant_s1"]


def test_a_lost_stage_redoes_what_rests_on_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = document(place / "out")["results"]
    (place / "out" / "stages" / "decompose_s2.json").unlink()
    capsys.readouterr()
    assert call(place, "out") == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.endswith("seed 2 ...")]
    assert [line.split("] ")[1].split()[0] for line in lines] == ["decompose,", *["fine-tune"] * 8]
    after = document(place / "out")["results"]
    assert after["finetune_Constant_s2"] == before["finetune_Constant_s2"]


def test_the_same_seeds_give_the_same_numbers(place: Path) -> None:
    assert call(place, "again") == 0
    mine, theirs = document(place / "again")["results"], document(place / "out")["results"]
    for key, value in mine.items():
        # The planner's forms follow measured times.
        if key not in ("bench", "onnx", "planned"):
            assert value == theirs[key], key


def test_given_weights_replace_the_baseline(place: Path) -> None:
    weights = place / "out" / "baseline_s1" / "net_iter_12.caffemodel"
    assert call(place, "given", "--weights", str(weights), "--seeds", "1") == 0
    found = document(place / "given")["results"]
    want = document(place / "out")["results"]["baseline_s1"]["accuracy"]
    assert found["baseline_s1"]["accuracy"] == pytest.approx(want)
    assert found["baseline_s1"]["iterations"] == 0
    assert "baseline_s2" not in found


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"energy": 2}, "energy 2 is not in"),
        ({"sweep": [{"force_type": "Pull", "force_decay": [1], "keep": 1}]}, "'Pull' is none of"),
        ({"sweep": [{"force_type": "Linear", "force_decay": [1], "keep": 2}]}, "keeps 2, which"),
        ({"seeds": []}, "each need an entry"),
        ({"bench": {"batch": 1}}, "threads"),
        ({"extra": 1}, "unknown ones: extra"),
    ],
)
def test_a_wrong_experiment_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], words: str
) -> None:
    (tmp_path / "data").mkdir()
    write_recipes(tmp_path / "recipes", **changed)
    assert call(tmp_path, "out") == 1
    error = capsys.readouterr().err
    assert words in error
    assert "experiment.json" in error
    assert not (tmp_path / "out").exists()


def test_missing_data_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipes(tmp_path / "recipes")
    assert call(tmp_path, "out") == 1
    assert "--data" in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    assert call(tmp_path, "out") == 1
    assert "mnist_train_lmdb does not exist" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("{}")
    assert main(["reproduce", "lenet", str(tmp_path), "--report-only"]) == 1
    assert "no results file of version" in capsys.readouterr().err


def test_one_seed_concludes_nothing_about_fine_tuning(place: Path) -> None:
    found = document(place / "out")
    assert sum("over 2 seeds" in line for line in verdicts(found)) == 4
    alone = {**found, "seeds": [1], "runs": [{**run, "seeds": [1]} for run in found["runs"]]}
    lines = [line for line in verdicts(alone) if line.startswith("Fine-tuning")]
    assert len(lines) == 4
    assert all("nothing is concluded" in line for line in lines)


def test_a_force_net_must_keep_accuracy_and_lower_ranks() -> None:
    start = {"accuracy": 0.99, "ratio": 0.7}
    share = Goal("baseline", 0.0015, 0.3, points=False)
    assert meets({"accuracy": 0.9885, "ratio": 0.49}, start, share)
    assert not meets({"accuracy": 0.9884, "ratio": 0.3}, start, share)
    assert not meets({"accuracy": 0.995, "ratio": 0.5}, start, share)
    points = Goal("control", 0.01, 0.1, points=True)
    assert meets({"accuracy": 0.98, "ratio": 0.6}, start, points)
    assert not meets({"accuracy": 0.99, "ratio": 0.61}, start, points)
