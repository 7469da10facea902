"""The six updates, weight decay and clipping against double-precision formulae."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.errors import SolverError
from caffe_bridge.solver import Solver
from caffe_bridge.solver.updates import RULES
from tests.solver.tiny import random_gradients, scripted, solver, weights

#: float32 weights of size 1 after a dozen updates.
CLOSE = 3e-6
ITERATIONS = 6
RATE, MOMENTUM, BETA2, DECAY, DELTA = 0.1, 0.8, 0.9, 0.05, 1e-3

Array = np.ndarray
State = dict[str, Array]
Step = Callable[[Array, float, State, int], Array]


def sgd(g: Array, rate: float, s: State, t: int) -> Array:
    s["h"] = MOMENTUM * s["h"] + rate * g
    return s["h"]


def nesterov(g: Array, rate: float, s: State, t: int) -> Array:
    old = s["h"]
    s["h"] = MOMENTUM * old + rate * g
    return (1 + MOMENTUM) * s["h"] - MOMENTUM * old


def adagrad(g: Array, rate: float, s: State, t: int) -> Array:
    s["h"] = s["h"] + g**2
    return rate * g / (np.sqrt(s["h"]) + DELTA)


def rmsprop(g: Array, rate: float, s: State, t: int) -> Array:
    s["h"] = BETA2 * s["h"] + (1 - BETA2) * g**2
    return rate * g / (np.sqrt(s["h"]) + DELTA)


def adadelta(g: Array, rate: float, s: State, t: int) -> Array:
    s["h"] = MOMENTUM * s["h"] + (1 - MOMENTUM) * g**2
    u = g * np.sqrt((s["u"] + DELTA) / (s["h"] + DELTA))
    s["u"] = MOMENTUM * s["u"] + (1 - MOMENTUM) * u**2
    return rate * u


def adam(g: Array, rate: float, s: State, t: int) -> Array:
    s["h"] = MOMENTUM * s["h"] + (1 - MOMENTUM) * g
    s["u"] = BETA2 * s["u"] + (1 - BETA2) * g**2
    correction = math.sqrt(1 - BETA2**t) / (1 - MOMENTUM**t)
    return rate * correction * s["h"] / (np.sqrt(s["u"]) + DELTA)


FORMULAE: dict[str, tuple[str, Step]] = {
    "SGD": (f"momentum: {MOMENTUM}", sgd),
    "Nesterov": (f"momentum: {MOMENTUM}", nesterov),
    "AdaGrad": (f"delta: {DELTA}", adagrad),
    "RMSProp": (f"rms_decay: {BETA2} delta: {DELTA}", rmsprop),
    "AdaDelta": (f"momentum: {MOMENTUM} delta: {DELTA}", adadelta),
    "Adam": (f"momentum: {MOMENTUM} momentum2: {BETA2} delta: {DELTA}", adam),
}


def shapes(trained: Solver) -> list[tuple[int, ...]]:
    return [tuple(b.value.shape) for b in trained.net.learnable]


def run(
    trained: Solver,
    step: Step,
    kind: str = "L2",
    decay: float = DECAY,
    clip: float = math.inf,
    iter_size: int = 1,
) -> tuple[list[Array], list[Array]]:
    """Train on scripted gradients; returns the weights made and those of the formula."""
    gradients = random_gradients(shapes(trained))
    scripted(trained, gradients)
    want = [w.astype(np.float64) for w in weights(trained)]
    states = [{"h": np.zeros(w.shape), "u": np.zeros(w.shape)} for w in want]
    for iteration in range(ITERATIONS):
        given = [g.astype(np.float64) for g in gradients(iteration)]
        norm = math.sqrt(sum(float((g**2).sum()) for g in given))
        for i, blob in enumerate(trained.net.learnable):
            g = given[i] * min(1.0, clip / norm) / iter_size
            g = g + decay * blob.decay_mult * (want[i] if kind == "L2" else np.sign(want[i]))
            want[i] = want[i] - step(g, RATE * blob.lr_mult, states[i], iteration + 1)
    trained.step(ITERATIONS)
    return weights(trained), want


def check(trained: Solver, step: Step, **options: object) -> None:
    got, want = run(trained, step, **options)  # type: ignore[arg-type]
    for mine, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=CLOSE, atol=CLOSE)


def test_every_rule_has_a_formula() -> None:
    assert set(FORMULAE) == set(RULES)


@pytest.mark.parametrize("kind", ["L2", "L1"])
@pytest.mark.parametrize("name", FORMULAE)
def test_update_is_the_formula(tmp_path: Path, name: str, kind: str) -> None:
    text, step = FORMULAE[name]
    fields = f"type: '{name}' {text} weight_decay: {DECAY} regularization_type: '{kind}'"
    trained = solver(tmp_path, fields)
    assert [b.lr_mult for b in trained.net.learnable] == [1, 2, 0.5, 0]
    assert [b.decay_mult for b in trained.net.learnable] == [1, 0, 3, 1]
    frozen = weights(trained)[3]
    check(trained, step, kind=kind)
    np.testing.assert_array_equal(weights(trained)[3], frozen)


@pytest.mark.parametrize("name", FORMULAE)
def test_history_blobs(tmp_path: Path, name: str) -> None:
    trained = solver(tmp_path, f"type: '{name}'")
    count = 2 if name in ("AdaDelta", "Adam") else 1
    assert [[tuple(h.shape) for h in block] for block in trained.history] == [
        shapes(trained)
    ] * count


def test_sgd_keeps_the_rate_in_the_history(tmp_path: Path) -> None:
    """torch multiplies momentum and gradient by the present rate; Caffe stores rate * gradient."""
    trained = solver(tmp_path, "momentum: 0.5 lr_policy: 'step' gamma: 0.1 stepsize: 1")
    ones = [np.ones(s, np.float32) for s in shapes(trained)]
    scripted(trained, lambda _i: ones)
    before = weights(trained)[0]
    trained.step(2)
    moved = before - weights(trained)[0]
    np.testing.assert_allclose(moved, 0.1 + (0.5 * 0.1 + 0.01), rtol=1e-5)


def test_clipping_sees_raw_gradients_of_all_blobs(tmp_path: Path) -> None:
    lines: list[str] = []
    fields = f"momentum: {MOMENTUM} weight_decay: {DECAY} iter_size: 3 clip_gradients: 2"
    trained = solver(tmp_path, fields, log=lines.append)
    check(trained, sgd, clip=2.0, iter_size=3)
    found = [re.search(r"L2 norm ([\d.]+) > 2\)", line) for line in lines]
    assert sum(match is not None for match in found) == ITERATIONS


def test_small_gradients_are_not_clipped(tmp_path: Path) -> None:
    lines: list[str] = []
    trained = solver(tmp_path, f"momentum: {MOMENTUM} clip_gradients: 1000", log=lines.append)
    check(trained, sgd, decay=0.0, clip=1000.0)
    assert not any("clipping" in line for line in lines)


@pytest.mark.parametrize("clip", [-1, 0.01])
def test_iter_size_averages_gradients(tmp_path: Path, clip: float) -> None:
    """The same batch three times is one batch, but clipping works on the threefold gradient."""
    one = solver(tmp_path, f"momentum: 0.9 clip_gradients: {clip}")
    three = solver(tmp_path, f"momentum: 0.9 iter_size: 3 clip_gradients: {clip}")
    start = weights(one)
    one.step(3)
    three.step(3)
    share = 1.0 if clip < 0 else 1 / 3
    for a, b, origin in zip(weights(one), weights(three), start, strict=True):
        np.testing.assert_allclose(b - origin, share * (a - origin), rtol=2e-3, atol=1e-6)
    assert three.loss == pytest.approx(one.loss, rel=1e-2)


def test_computed_gradients_reach_the_weights(tmp_path: Path) -> None:
    trained = solver(tmp_path)
    for _ in range(2):
        before = weights(trained)
        trained.step(1)
        grads = [b.value.grad for b in trained.net.learnable]
        for blob, old, new, grad in zip(
            trained.net.learnable, before, weights(trained), grads, strict=True
        ):
            assert grad is not None
            np.testing.assert_allclose(
                new, old - RATE * blob.lr_mult * grad.numpy(), rtol=1e-6, atol=1e-7
            )
    assert torch.isfinite(torch.tensor(trained.loss))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("type: 'Lion'", "solver type 'Lion' is not known"),
        ("type: 'AdaGrad' momentum: 0.9", "momentum 0.9 cannot be used with AdaGrad"),
        ("type: 'RMSProp' momentum: 0.9", "momentum 0.9 cannot be used with RMSProp"),
        ("type: 'Adam' momentum: 1", "Adam needs a momentum from 0 to below 1, and it is 1;"),
        ("type: 'Adam' momentum2: 1.5", "Adam needs a momentum2 from 0 to below 1, and it is 1.5;"),
        ("regularization_type: 'L3'", "regularization_type 'L3' is not known"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SolverError, match=words):
        solver(tmp_path, text)
