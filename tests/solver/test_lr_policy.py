"""Learning-rate policies against values computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.errors import SolverError
from caffe_bridge.schema import Record, parse_text
from caffe_bridge.solver import learning_rate
from caffe_bridge.solver.lr_policy import POLICIES, check_policy, current_step
from tests.solver.tiny import solver

CASES = [
    ("lr_policy: 'fixed'", 77, 0, 0.01),
    ("lr_policy: 'step' gamma: 0.1 stepsize: 10", 25, 2, 0.0001),
    ("lr_policy: 'multistep' gamma: 0.5 stepvalue: 3", 25, 3, 0.00125),
    ("lr_policy: 'exp' gamma: 0.9", 3, 0, 0.00729),
    ("lr_policy: 'inv' gamma: 0.5 power: 2", 4, 0, 0.01 / 9),
    ("lr_policy: 'inv' gamma: 0.0001 power: 0.75", 10000, 0, 0.01 * 2**-0.75),
    ("lr_policy: 'poly' power: 2 max_iter: 100", 25, 0, 0.005625),
    ("lr_policy: 'poly' power: 1 max_iter: 100", 100, 0, 0.0),
    ("lr_policy: 'sigmoid' gamma: -0.5 stepsize: 10", 12, 0, 0.01 / (1 + math.e)),
    ("lr_policy: 'sigmoid' gamma: 0.5 stepsize: 10", 10, 0, 0.005),
]


def policy(text: str) -> Record:
    return parse_text(f"base_lr: 0.01 {text}", "SolverParameter", "s.prototxt")


@pytest.mark.parametrize(("text", "iteration", "step", "want"), CASES, ids=[c[0] for c in CASES])
def test_rate_is_the_formula_in_float32(text: str, iteration: int, step: int, want: float) -> None:
    got = learning_rate(policy(text), iteration, step)
    assert got == float(np.float32(got))
    assert got == pytest.approx(want, rel=2e-7, abs=0)


def test_every_policy_is_tested() -> None:
    assert {c[0].split("'")[1] for c in CASES} == set(POLICIES)


def test_step_counts_whole_steps() -> None:
    param = policy("lr_policy: 'step' gamma: 0.1 stepsize: 4")
    assert [current_step(param, i, 9) for i in range(10)] == [0] * 4 + [1] * 4 + [2] * 2


def test_multistep_moves_once_an_iteration() -> None:
    param = policy("lr_policy: 'multistep' gamma: 0.1 stepvalue: [2, 2, 3, 7]")
    step, steps = 0, []
    for iteration in range(9):
        step = current_step(param, iteration, step)
        steps.append(step)
    assert steps == [0, 0, 1, 2, 3, 3, 3, 4, 4]


def test_extreme_fields_do_not_overflow() -> None:
    assert learning_rate(policy("lr_policy: 'sigmoid' gamma: 1 stepsize: 5000"), 0) == 0.0
    assert learning_rate(policy("lr_policy: 'exp' gamma: 0.5"), 10**6) == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr_policy: 'cosine'", "'cosine' is not known"),
        ("lr_policy: 'step' gamma: 0.1", "needs a positive stepsize"),
        ("lr_policy: 'poly' power: 1", "needs a positive max_iter"),
    ],
)
def test_broken_policy_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SolverError, match=words):
        check_policy(policy(text))
    with pytest.raises(SolverError, match=words):
        learning_rate(policy(text), 0)
    with pytest.raises(SolverError, match=words):
        solver(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "iteration"),
    [("lr_policy: 'poly' power: 0.5 max_iter: 10", 11), ("lr_policy: 'exp' gamma: 10", 400)],
)
def test_a_rate_that_is_no_number_is_refused(text: str, iteration: int) -> None:
    with pytest.raises(SolverError, match=f"at iteration {iteration}"):
        learning_rate(policy(text), iteration)
