"""How an experiment's trainings run: in parallel, resumed, taken over, on another net."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_bridge.cli.main import main
from caffe_bridge.compress import make_plan, rewrite
from caffe_bridge.compress.rewrite import as_weights_of
from caffe_bridge.errors import SchemaError
from caffe_bridge.experiment.adapt import spatial_layers, training_net
from caffe_bridge.experiment.lowrank import merged
from caffe_bridge.experiment.stages import Stage, inside, run_stages
from caffe_bridge.experiment.train import Job, train
from caffe_bridge.graph import read_net
from caffe_bridge.net import Net
from caffe_bridge.schema import load_weights, parse_text, read_text, write_text
from tests.experiment.digits import ONE, call, document, write_digits, write_recipes
from tests.shared import REPO


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "data").mkdir()
    write_digits(folder / "data")
    write_recipes(folder / "recipes", sweep=ONE, seeds=[1],
                  profiles={"gpu": {"tests": 1}, "cpu": {"channels_last": True}})  # fmt: skip
    assert call(folder, "out") == 0
    return folder


def test_two_jobs_give_the_numbers_of_one(place: Path) -> None:
    assert call(place, "two", "--jobs", "2") == 0
    mine, theirs = (document(place / name)["results"] for name in ("two", "out"))
    assert set(mine) == set(theirs)
    for key, value in mine.items():
        if key not in ("bench", "onnx", "planned"):
            assert value == theirs[key], key


def test_parallel_stages_keep_their_order_of_need(tmp_path: Path) -> None:
    done: list[str] = []

    def work(name: str) -> Any:
        def run(results: dict[str, Any]) -> dict[str, Any]:
            done.append(name)
            return {"sum": sum(r["sum"] for r in results.values()) + 1}

        return run

    stages = [
        Stage("a", "a", work("a"), needs=(), parallel=True),
        Stage("b", "b", work("b"), needs=("a",), parallel=True),
        Stage("c", "c", work("c"), needs=("a", "b"), alone=True),
    ]
    with inside(tmp_path):
        found = run_stages(stages, {}, lambda _text: None, jobs=3)
    assert done == ["a", "b", "c"]
    assert [found[name]["sum"] for name in "abc"] == [1, 2, 4]


def test_what_runs_beside_a_failure_is_kept(tmp_path: Path) -> None:
    slept = []

    def slow(_results: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.3)
        return {}

    def fail(_results: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        time.sleep(1.5)
        slept.append(time.perf_counter() - start)
        raise SchemaError("not here")

    stages = [Stage("a", "a", slow, needs=(), parallel=True), Stage("b", "b", fail, needs=())]
    with inside(tmp_path):
        with pytest.raises(SchemaError, match="not here"):
            run_stages(stages, {}, lambda _text: None, jobs=2)
        kept = json.loads(Path("stages/a.json").read_text())
    # Its own time, not that until the failure beside it was over.
    assert 0.3 <= kept["seconds"] < slept[0]


def test_a_failing_parallel_stage_is_told(tmp_path: Path) -> None:
    def fail(_results: dict[str, Any]) -> dict[str, Any]:
        raise SchemaError("this one fails")

    def last(_results: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.2)
        return {"headline": "finished"}

    stages = [
        Stage("a", "a", fail, needs=(), parallel=True),
        Stage("b", "b", last, needs=(), parallel=True),
        Stage("c", "c", last, needs=("b",), parallel=True),
    ]
    with inside(tmp_path):
        for jobs in (2, 1):
            with pytest.raises(SchemaError, match="this one fails"):
                run_stages(stages, {}, lambda _text: None, jobs=jobs)
    # What ran beside it is kept, and nothing new was begun.
    assert [p.name for p in (tmp_path / "stages").iterdir()] == ["b.json"]


def test_a_cut_off_training_goes_on(place: Path, tmp_path: Path) -> None:
    source = place / "out" / "control_s1"
    solver = read_text(source / "solver.prototxt", "SolverParameter")
    solver.max_iter, solver.snapshot, solver.snapshot_prefix = 40, 5, "net/net"
    solver.net = str((place / "out" / solver.net).resolve())
    (tmp_path / "net").mkdir()
    write_text(solver, tmp_path / "net" / "solver.prototxt")
    start = str((place / "out" / "baseline_s1" / "net_iter_12.caffemodel").resolve())

    class CutError(Exception):
        pass

    def cut(_title: str, done: int, _total: int, _loss: float) -> None:
        if done == 17:
            raise CutError

    with inside(tmp_path):
        whole = train(Job("net", start), lambda *_: None)
        want = Path(whole["weights"]).read_bytes()
        shutil.rmtree("net")
        Path("net").mkdir()
        write_text(solver, "net/solver.prototxt")
        with pytest.raises(CutError):
            train(Job("net", start), cut)
        assert Path("net/net_iter_15.solverstate").exists()
        seen: list[int] = []
        again = train(Job("net", start), lambda _t, done, _n, _l: seen.append(done))
        assert seen[0] == 16
        assert again == whole
        assert Path(again["weights"]).read_bytes() == want
        assert sorted(p.name for p in Path("net").iterdir()) == [
            "net_iter_40.caffemodel", "solver.prototxt", "train.log",
        ]  # fmt: skip


def test_a_training_by_hand_is_taken_over(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, hand = place / "out", place / "hand"
    shutil.copytree(out, hand)
    shutil.rmtree(hand / "stages")
    log = hand / "Constant_0.0005_s1" / "train.log"
    assert "Test net output" in log.read_text()
    control = hand / "control_s1" / "solver.prototxt"
    solver = read_text(control, "SolverParameter")
    solver.momentum = 0.8
    write_text(solver, control)
    before = {path: path.read_bytes() for path in (hand / "control_s1").iterdir()}
    capsys.readouterr()
    assert call(place, "hand", "--adopt") == 1
    assert "differs from the experiment in momentum; move the folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (hand / "control_s1").iterdir()} == before
    shutil.rmtree(hand / "control_s1")
    assert call(place, "hand", "--adopt") == 0
    told = capsys.readouterr().out
    assert "Constant_0.0005, seed 1: taken over" in told
    assert "control, seed 1: taken over" not in told
    assert told.count("taken over") == 2
    mine, theirs = document(hand)["results"], document(out)["results"]
    assert mine["Constant_0.0005_s1"]["adopted"]
    for key in ("weights", "iterations"):
        assert mine["Constant_0.0005_s1"][key] == theirs["Constant_0.0005_s1"][key]
    assert mine["ranks"]["tables"] == theirs["ranks"]["tables"]


def test_a_changed_recipe_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "recipes", place / "edited")
    shutil.copytree(place / "out", place / "old")
    solver = place / "edited" / "lenet" / "solver_force.prototxt"
    solver.write_text(solver.read_text().replace("momentum: 0.9", "momentum: 0.8"))
    capsys.readouterr()
    assert call(place, "old", "--recipes", str(place / "edited")) == 1
    said = capsys.readouterr().err
    assert "solver_force.prototxt: is not the force solver that the stages in" in said


def test_another_training_in_the_folder_is_not_resumed(place: Path, tmp_path: Path) -> None:
    source = place / "out" / "control_s1" / "solver.prototxt"
    solver = read_text(source, "SolverParameter")
    net = read_net(place / "out" / solver.net)
    solver.max_iter, solver.snapshot, solver.snapshot_prefix, solver.net = 12, 4, "n/net", "net"
    start = str((place / "out" / "baseline_s1" / "net_iter_12.caffemodel").resolve())

    class CutError(Exception):
        pass

    def cut(_title: str, done: int, _total: int, _loss: float) -> None:
        if done == 10:
            raise CutError

    with inside(tmp_path):
        Path("n").mkdir()
        write_text(solver, "n/solver.prototxt")
        write_text(net, "net")
        with pytest.raises(CutError):
            train(Job("n", start), cut)
        for layer in net.layer:
            if layer.type == "Data":
                layer.data_param.batch_size = 5
        write_text(net, "net")
        seen: list[int] = []

        def cut_early(_title: str, done: int, _total: int, _loss: float) -> None:
            seen.append(done)
            if done == 6:
                raise CutError

        with pytest.raises(CutError):
            train(Job("n", start), cut_early)
        assert seen[0] == 1
        # The snapshot of the other training at iteration 8 is gone; its own one is at 4.
        seen.clear()
        train(Job("n", start), lambda _t, done, _n, _l: seen.append(done))
        assert seen[0] == 5


def test_merged_weights_compute_what_the_low_rank_net_does() -> None:
    text = """
    layer { name: "data" type: "Input" top: "data"
            input_param { shape { dim: 2 dim: 4 dim: 6 dim: 6 } } }
    layer { name: "c" type: "Convolution" bottom: "data" top: "c"
            convolution_param { num_output: 6 kernel_size: 3 group: 2
                                weight_filler { type: "msra" } bias_filler { value: 0.5 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "c" top: "ip"
            inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }"""
    net = parse_text(text, "NetParameter", "made-up")
    dense = Net(net, "TEST", seed=1)
    blobs = {x.name: [b.detach().numpy() for b in x.blobs] for x in dense.built.layers if x.blobs}
    weights = as_weights_of(blobs)
    low, values = rewrite(net, weights, make_plan(net, weights, config={"c": 4}))
    again = merged(as_weights_of(values), ["c"])
    assert set(again.blobs) == {"c", "ip"}
    feed = {"data": np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)}
    first = Net(low, "TEST", weights=as_weights_of(values))
    second = Net(net, "TEST", weights=again)
    mine, theirs = (n.forward({"data": torch.from_numpy(feed["data"])}) for n in (first, second))
    torch.testing.assert_close(mine["ip"], theirs["ip"], rtol=1e-5, atol=1e-5)


def test_a_training_net_is_put_around_other_names() -> None:
    recipe = read_net(REPO / "solvers" / "cifar10_resnet20" / "train_test.prototxt")
    text = """
    name: "other"
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } } }
    layer { name: "A" type: "Convolution" bottom: "x" top: "A" convolution_param { num_output: 4 kernel_size: 3 } }
    layer { name: "B" type: "Convolution" bottom: "A" top: "B" convolution_param { num_output: 4 kernel_size: 3 } }
    layer { name: "N" type: "BatchNorm" bottom: "B" top: "B" batch_norm_param { use_global_stats: true } }
    layer { name: "S" type: "Convolution" bottom: "B" top: "S" convolution_param { num_output: 4 kernel_size: 1 } }
    layer { name: "F" type: "InnerProduct" bottom: "S" top: "F" inner_product_param { num_output: 10 } }
    layer { name: "P" type: "Softmax" bottom: "F" top: "P" }"""  # noqa: E501 - one layer a line
    deploy = parse_text(text, "NetParameter", "made-up")
    made = training_net(recipe, deploy)
    assert [x.name for x in made.layer] == [
        "cifar10", "cifar10", "A", "B", "N", "S", "F", "accuracy", "loss",
    ]  # fmt: skip
    assert [list(x.top) for x in made.layer[:2]] == [["x", "label"]] * 2
    assert list(made.layer[-1].bottom) == ["F", "label"]
    forced = {x.name for x in made.layer if x.param and x.param[0].force_mult}
    assert forced == {"B"}
    assert spatial_layers(made) == ("A", "B")
    assert not made.layer[4].batch_norm_param.has("use_global_stats")
    text = text.replace('bottom: "S"', 'bottom: "B"')
    with pytest.raises(SchemaError, match="answers with S, F"):
        training_net(recipe, parse_text(text, "NetParameter", "made-up"))


def test_weights_of_another_net_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy = (place / "out" / "deploy.prototxt").read_text().replace('"conv', '"C')
    (tmp_path / "other.prototxt").write_text(deploy)
    weights = tmp_path / "other.caffemodel"
    assert main(["init", str(tmp_path / "other.prototxt"), "-o", str(weights)]) == 0
    assert call(place, "third", "--weights", str(weights)) == 1
    assert "no weights for conv1, conv2; give the deploy net" in capsys.readouterr().err
    assert call(place, "third", "--weights", str(weights), "--scale", "0.5",
                "--deploy", str(tmp_path / "other.prototxt")) == 0  # fmt: skip
    found = document(place / "third")
    assert list(found["results"]["ranks"]["tables"]["baseline_s1"]["layers"]) == ["C1", "C2"]
    assert json.loads((place / "third" / "results.json").read_text())["settings"]["deploy"]


def test_stored_weights_are_read_once_written(place: Path) -> None:
    nets = document(place / "out")["results"]["planned"]["nets"]
    assert set(nets["Constant"]["forms"]) == {"conv1", "conv2"}
    for net in nets.values():
        stored = load_weights(place / "out" / net["weights"])
        assert stored.blobs
        assert 0 <= net["accuracy"] <= 1


def test_low_rank_nets_are_sparsified(place: Path) -> None:
    found = document(place / "out")
    assert found["settings"]["profile"] == "cpu"
    results = found["results"]
    made = {name: results[name] for name in results if name.startswith("sparse_")}
    assert list(made) == ["sparse_baseline_at_Constant_s1", "sparse_Constant_s1"]
    factors = [f"conv{n}_{end}" for n in (1, 2) for end in ("lowrank", "linear")]
    threshold = found["experiment"]["sparse"]["threshold"]
    for name, entry in made.items():
        assert [row["layer"] for row in entry["rows"]] == factors
        # Zeros set before fine-tuning are zeros after it, and the smaller net computes the same.
        lasso_folder = place / "out" / name.replace("sparse_", "lasso_")
        lassoed = load_weights(lasso_folder / "net_iter_6.caffemodel").blobs
        before = load_weights(place / "out" / name / "masked.caffemodel").blobs
        after = load_weights(place / "out" / entry["weights"]).blobs
        for layer in factors:
            zeros = before[layer][0].array() == 0
            assert (after[layer][0].array()[zeros] == 0).all()
            matrix = lassoed[layer][0].array().reshape(len(zeros), -1).copy()
            matrix[np.sqrt((matrix**2).mean(1)) <= threshold] = 0
            matrix[:, np.sqrt((matrix**2).mean(0)) <= threshold] = 0
            np.testing.assert_array_equal(before[layer][0].array(), matrix.reshape(zeros.shape))
            if layer == "conv2_lowrank":
                assert zeros.any()
        assert entry["worst"] < 1e-5 and entry["size"][1] <= entry["size"][0]
        solver = read_text(lasso_folder / "solver.prototxt", "SolverParameter")
        assert (solver.breadth_decay, solver.kernel_shape_decay) == pytest.approx((0.05, 0.05))
        lasso = read_net(lasso_folder / "train_test.prototxt")
        marked = {x.name for x in lasso.layer if x.param and x.param[0].breadth_decay_mult}
        assert marked == set(factors)
    models = [model["name"] for model in results["bench"]["bench"]["models"]]
    assert {"Constant_sparse", "baseline_at_Constant_sparse"} <= set(models)
    page = (place / "out" / "report.html").read_text()
    assert "Zeros of sparsified low-rank nets (Figure 8)" in page


def test_unknown_layers_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipes(place / "typo", layers=["conv1", "cnv2"])
    assert call(place, "typo_out", "--recipes", str(place / "typo")) == 1
    assert "has no layer cnv2; correct 'layers'" in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["runs", "seeds", "results"])
def test_incomplete_results_are_told(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    found = document(place / "out")
    del found[gone]
    (tmp_path / "results.json").write_text(json.dumps(found))
    assert main(["reproduce", "lenet", str(tmp_path), "--report-only"]) == 1
    assert "an entry is missing or has the wrong form" in capsys.readouterr().err
    assert main(["reproduce", "alexnet-speed", str(tmp_path), "--report-only"]) == 1
    assert "holds another experiment" in capsys.readouterr().err


def test_a_batch_of_its_own_and_seeds_that_only_fine_tune(place: Path) -> None:
    write_recipes(place / "recipes2", sweep=ONE, seeds=[1, 2], dense_seeds=1, batch=8)
    assert call(place, "tuned", "--recipes", str(place / "recipes2")) == 0
    found = document(place / "tuned")
    results = found["results"]
    assert "control_s2" not in results and "baseline_s2" not in results
    assert (
        results["decompose_s2"]["nets"]["Constant"]["ranks"]
        == (results["decompose_s1"]["nets"]["Constant"]["ranks"])
    )
    assert results["finetune_Constant_s1"]["losses"] != results["finetune_Constant_s2"]["losses"]
    net = read_net(place / "tuned" / "train_test.prototxt")
    sizes = {x.include[0].phase: x.data_param.batch_size for x in net.layer if x.type == "Data"}
    assert sizes["TRAIN"] == 8 and sizes["TEST"] != 8
    page = (place / "tuned" / "report.md").read_text()
    assert "with seed 1 only" in page and "batches of 8 pictures" in page
