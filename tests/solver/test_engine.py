"""The training loop: what it prints, when it tests and snapshots, what nets share."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.schema import parse_text
from caffe_bridge.solver import Solver
from tests.solver.tiny import solver, weights

#: The expressions of Caffe's tools/extra/parse_log.py.
ITERATION = re.compile(r"Iteration (\d+)")
TRAIN_OUTPUT = re.compile(r"Train net output #(\d+): (\S+) = ([\.\deE+-]+)")
TEST_OUTPUT = re.compile(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)")
RATE = re.compile(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)")
LOSS = re.compile(r"Iteration (\d+) \(.* iter/s, .*s/\d+ iters\), loss = (\S+)")
GLOG = re.compile(r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.cpp:\d+\] ")

#: Values printed with six digits.
PRINTED = 1e-5


def found(pattern: re.Pattern[str], lines: list[str]) -> list[tuple[str, ...]]:
    return [m.groups() for m in map(pattern.search, lines) if m]


def test_lines_are_those_of_caffe(tmp_path: Path) -> None:
    lines: list[str] = []
    text = (
        "display: 2 max_iter: 4 test_iter: 3 test_interval: 4 lr_policy: 'exp' gamma: 0.1 "
        "base_lr: 0.001"
    )
    trained = solver(tmp_path, text, log=lines.append)
    losses: list[float] = []
    trained.callbacks.append(lambda s: losses.append(s.loss))
    trained.solve()
    assert all(GLOG.match(line) for line in lines)
    assert [float(g[0]) for g in found(RATE, lines)] == pytest.approx([1e-3, 1e-5])
    shown = found(LOSS, lines)
    assert [int(i) for i, _ in shown] == [0, 2]
    assert [float(v) for _, v in shown] == pytest.approx([losses[0], losses[2]], rel=PRINTED)
    outputs = found(TRAIN_OUTPUT, lines)
    assert [(n, name) for n, name, _ in outputs] == [("0", "loss")] * 2
    assert [float(v) for *_, v in outputs] == pytest.approx([losses[0], losses[2]], rel=PRINTED)
    tests = found(TEST_OUTPUT, lines)
    assert [(n, name) for n, name, _ in tests] == [("0", "loss"), ("1", "size")] * 2
    assert float(tests[0][2]) == pytest.approx(losses[0], rel=PRINTED)
    assert any(re.search(r"loss = \S+ \(\* 1 = \S+ loss\)$", line) for line in lines)
    text = "\n".join(lines)
    for line in ("Solving tiny", "Iteration 0, Testing net (#0)", "Iteration 4, loss = ",
                 "Snapshotting to binary proto file", "Optimization Done."):  # fmt: skip
        assert line in text
    iterations = [int(g[0]) for g in found(ITERATION, lines)]
    assert iterations == sorted(iterations)


def test_vector_outputs_are_numbered(tmp_path: Path) -> None:
    lines: list[str] = []
    net = (
        "layer { name: 'd' type: 'DummyData' top: 'v' top: 'a' dummy_data_param { "
        "shape { dim: 3 } shape { dim: 1 } data_filler { value: 2 } data_filler { value: -5 } } }"
    )
    param = parse_text(
        f"net_param {{ {net} }} base_lr: 1 lr_policy: 'fixed' display: 1 test_iter: 2 "
        "test_interval: 1",
        "SolverParameter",
    )
    trained = Solver(param, log=lines.append)
    trained.step(1)
    want = [("0", "a", "-5"), ("1", "v", "2"), ("2", "v", "2"), ("3", "v", "2")]
    assert found(TRAIN_OUTPUT, lines) == want
    assert found(TEST_OUTPUT, lines) == want
    assert trained.test_results == [{"a": -5.0, "v[0]": 2.0, "v[1]": 2.0, "v[2]": 2.0}]


@pytest.mark.parametrize("window", [1, 3])
def test_displayed_loss_is_averaged(tmp_path: Path, window: int) -> None:
    lines: list[str] = []
    text = f"display: 1 average_loss: {window} max_iter: 7 snapshot_after_train: false"
    trained = solver(tmp_path, text, log=lines.append)
    losses: list[float] = []
    trained.callbacks.append(lambda s: losses.append(s.loss))
    trained.solve()
    losses.append(trained.net.evaluate())
    means = [np.mean(losses[max(0, i - window + 1) : i + 1]) for i in range(8)]
    shown = [float(v) for _, v in found(LOSS, lines)]
    assert shown == pytest.approx(means[:7], rel=PRINTED)
    (final,) = (line for line in lines if "Iteration 7, loss = " in line)
    assert float(final.rsplit("= ")[1]) == pytest.approx(means[7], rel=PRINTED)


def test_average_starts_again_with_each_step_call(tmp_path: Path) -> None:
    trained = solver(tmp_path, "average_loss: 10")
    trained.step(3)
    assert len(trained.recent) == 3
    trained.step(1)
    assert list(trained.recent) == [trained.loss]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("test_interval: 2", [0, 2, 4, 6]),
        ("test_interval: 2 test_initialization: false", [2, 4, 6]),
        ("test_interval: 4", [0, 4]),
        ("test_interval: 100 test_initialization: false", []),
    ],
)
def test_when_it_tests(tmp_path: Path, text: str, want: list[int]) -> None:
    lines: list[str] = []
    solver(tmp_path, f"max_iter: 6 test_iter: 1 {text}", log=lines.append).solve()
    tested = re.compile(r"Iteration (\d+), Testing net \(#0\)")
    assert [int(g[0]) for g in found(tested, lines)] == want


def test_results_are_means_over_batches(tmp_path: Path) -> None:
    one = solver(tmp_path, "test_iter: 1 test_interval: 1", rows=12)
    batches = [one.test_all()[0], one.test_all()[0]]
    both = solver(tmp_path, "test_iter: 2 test_interval: 1 test_compute_loss: true", rows=12)
    (mean,) = both.test_all()
    assert set(mean) == {"loss", "size"}
    for name, value in mean.items():
        assert value == pytest.approx((batches[0][name] + batches[1][name]) / 2, rel=1e-6)
    assert batches[0]["loss"] != batches[1]["loss"]


def test_testing_does_not_disturb_training(tmp_path: Path) -> None:
    quiet = solver(tmp_path, "momentum: 0.9")
    tested = solver(tmp_path, "momentum: 0.9 test_iter: 2 test_iter: 1 test_interval: 1")
    quiet.step(4)
    tested.step(4)
    for a, b in zip(weights(quiet), weights(tested), strict=True):
        np.testing.assert_array_equal(a, b)


def test_test_nets_use_the_training_weights(tmp_path: Path) -> None:
    text = "test_iter: 1 test_interval: 1000"
    trained = solver(tmp_path, text)
    trained.step(5)
    assert trained.test_all()[0]["loss"] == pytest.approx(trained.net.evaluate(), rel=1e-6)
    state = trained.snapshot()
    other = solver(tmp_path, text)
    other.test_all()
    other.restore(state)
    assert other.test_all() == trained.test_all()
    trained.net.load(state.replace("solverstate", "caffemodel"))
    for mine, theirs in zip(trained.net.learnable, trained.test_nets[0].learnable, strict=True):
        assert mine.value is theirs.value


def test_max_iter_is_reached_once(tmp_path: Path) -> None:
    trained = solver(tmp_path, "max_iter: 3")
    trained.solve()
    assert trained.iteration == 3
    before = weights(trained)
    trained.solve()
    assert trained.iteration == 3
    np.testing.assert_array_equal(weights(trained)[0], before[0])


def test_stop_request_snapshots_and_leaves(tmp_path: Path) -> None:
    lines: list[str] = []
    trained = solver(tmp_path, "max_iter: 50 snapshot: 20", log=lines.append)

    def stop(engine: Solver) -> None:
        engine.stop_requested = engine.iteration == 3

    trained.callbacks.append(stop)
    trained.solve()
    assert trained.iteration == 3
    assert (tmp_path / "snap_iter_3.solverstate").is_file()
    assert lines[-1].endswith("Optimization stopped early.")
    resumed = solver(tmp_path, "max_iter: 5")
    resumed.restore(tmp_path / "snap_iter_3.solverstate")
    resumed.solve()
    assert resumed.iteration == 5


def test_a_stop_ends_a_test(tmp_path: Path) -> None:
    lines: list[str] = []
    trained = solver(tmp_path, "max_iter: 50 test_iter: 90 test_interval: 2", log=lines.append)
    net, passes = trained.test_nets[0], []
    evaluate = net.evaluate

    def stopping() -> float:
        passes.append(trained.iteration)
        trained.stop_requested |= len(passes) == 92
        return evaluate()

    net.evaluate = stopping  # type: ignore[method-assign]
    trained.solve()
    assert passes == [0] * 90 + [2] * 2
    assert trained.iteration == 2 and (tmp_path / "snap_iter_2.solverstate").is_file()
    assert "Test interrupted." in lines[-4]
    assert lines[-1].endswith("Optimization stopped early.")
    assert trained.test_all()[0]["loss"] > 0


def test_steps_and_clipping_are_told(tmp_path: Path) -> None:
    lines: list[str] = []
    text = "lr_policy: 'multistep' gamma: 0.5 stepvalue: [1, 3] clip_gradients: 0.01"
    solver(tmp_path, text, log=lines.append).step(5)
    step = re.compile(r"MultiStep Status: Iteration (\d+), step = (\d+)$")
    assert found(step, lines) == [("1", "1"), ("3", "2")]
    clip = re.compile(r"L2 norm (\S+) > 0\.01\) by scale factor (\S+)$")
    for norm, factor in found(clip, lines):
        assert float(norm) * float(factor) == pytest.approx(0.01, rel=PRINTED)
    assert len(found(clip, lines)) == 5


def test_a_force_on_nothing_is_told(tmp_path: Path) -> None:
    lines: list[str] = []
    trained = solver(tmp_path, "force_decay: 0.1 max_iter: 1", log=lines.append)
    trained.solve()
    assert "the net has none" not in "".join(lines)
    net = Path(trained.param.net)
    net.write_text(net.read_text().replace("force_mult: 1", ""))
    Solver(trained.param, log=lines.append).solve()
    assert "force_decay acts on blobs with a force_mult, and the net has none" in "".join(lines)


def test_snapshot_request(tmp_path: Path) -> None:
    trained = solver(tmp_path, "snapshot_after_train: false max_iter: 4")

    def ask(engine: Solver) -> None:
        engine.snapshot_requested = engine.iteration == 2

    trained.callbacks.append(ask)
    trained.solve()
    assert sorted(p.name for p in tmp_path.glob("snap*")) == [
        "snap_iter_2.bridgestate",
        "snap_iter_2.caffemodel",
        "snap_iter_2.solverstate",
    ]


def test_callbacks_come_in_order(tmp_path: Path) -> None:
    trained = solver(tmp_path)
    seen: list[tuple[str, int]] = []
    trained.on_start.append(lambda s: seen.append(("start", s.iteration)))
    trained.on_gradients.append(lambda s: seen.append(("gradients", s.iteration)))
    trained.callbacks.append(lambda s: seen.append(("done", s.iteration)))
    trained.step(2)
    assert seen == [("start", 0), ("gradients", 0), ("done", 1),
                    ("start", 1), ("gradients", 1), ("done", 2)]  # fmt: skip


def test_gradients_start_at_zero_each_iteration(tmp_path: Path) -> None:
    trained = solver(tmp_path, "base_lr: 0")
    seen: list[torch.Tensor] = []

    def keep(engine: Solver) -> None:
        grad = engine.net.learnable[0].value.grad
        assert grad is not None
        seen.append(grad.clone())

    trained.on_gradients.append(keep)
    trained.step(3)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_random_seed_repeats_fillers(tmp_path: Path) -> None:
    first, second = solver(tmp_path), solver(tmp_path, "random_seed: 6")
    torch.rand(3)
    again = solver(tmp_path)
    np.testing.assert_array_equal(weights(first)[0], weights(again)[0])
    assert not np.array_equal(weights(first)[0], weights(second)[0])


def test_shared_parameters_are_updated_once() -> None:
    """d/dw (w^2 x - t)^2 / 2 with one blob in two layers: one update with the summed gradient."""
    ip = (
        "layer {{ name: '{0}' type: 'InnerProduct' bottom: '{1}' top: '{0}' param {{ name: 'w' }} "
        "inner_product_param {{ num_output: 1 bias_term: false "
        "weight_filler {{ type: 'constant' value: 3 }} }} }}"
    )
    net = (
        "layer { name: 'd' type: 'DummyData' top: 'x' top: 't' dummy_data_param { "
        "shape { dim: 1 dim: 1 } shape { dim: 1 dim: 1 } "
        "data_filler { value: 2 } data_filler { value: 17 } } }"
        + ip.format("a", "x")
        + ip.format("b", "a")
        + "layer { name: 'loss' type: 'EuclideanLoss' bottom: 'b' bottom: 't' top: 'loss' }"
    )
    param = parse_text(
        f"net_param {{ {net} }} base_lr: 0.125 lr_policy: 'fixed' weight_decay: 2",
        "SolverParameter",
    )
    trained = Solver(param)
    assert len(trained.net.learnable) == 1
    trained.step(1)
    gradient = (3 * 3 * 2 - 17) * 2 * 3 * 2 + 2 * 3
    assert trained.net.learnable[0].value.item() == 3 - 0.125 * gradient
