"""Sixteen iterations of a real Caffe's solvers, Caffe's own snapshots, and force step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_bridge import pycaffe
from tests.golden.archive import case_names, error, require

CASES = case_names("solvers", "trace.npz")
#: Rounding adds up over sixteen iterations.
BOUND = 2e-3
#: force_direction "same" drops components by their sign, which rounding decides where they vanish.
SAME_BOUND = 1e-2
FORCE_BOUND = 1e-4
#: Adaptive solver -> why the bias before BatchNorm and the running mean after it are left out.
LEFT_OUT = {"conv2/1", "bn2/0"}
REASON = "its gradient is nothing but rounding noise, which an adaptive solver scales to full size"
ADAPTIVE = dict.fromkeys(("adagrad", "adam", "force_adam", "rmsprop"), REASON)
FORCES = ("Constant", "Degradation", "Gravity", "Linear")
FORCE_NETS = ("ip_small", "ip_tall", "ip_wide")


@pytest.fixture
def solvers(golden: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of solver cases, as working folder."""
    monkeypatch.chdir(golden / "solvers")
    return golden / "solvers"


def read(path: Path) -> dict[str, Any]:
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}


def differences(solver: Any, trace: dict[str, Any], kind: str, name: str) -> dict[str, float]:
    errors = {}
    for key, values in trace.items():
        start, _, blob = key.partition("/")
        if start == kind and not (name in ADAPTIVE and blob in LEFT_OUT):
            layer, index = blob.split("/")
            errors[key] = error(solver.net.params[layer][int(index)].data, values)
    return errors


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_solver(solvers: Path, name: str) -> None:
    trace = read(solvers / name / "trace.npz")
    iterations, saved = int(trace["iters"]), int(trace["snap"])
    solver = pycaffe.get_solver(f"{name}/solver.prototxt")
    solver.net.copy_from("init.caffemodel")
    losses = []
    for _ in range(iterations):
        solver.step(1)
        losses.append(float(solver.net.blobs["loss"].data))
    errors = {"loss": error(losses, trace["loss"]), **differences(solver, trace, "param", name)}
    states = sorted((solvers / name).glob(f"snap_iter_{saved}.solverstate*"))
    assert states
    for state in states:
        resumed = pycaffe.get_solver(f"{name}/solver.prototxt")
        resumed.restore(f"{name}/{state.name}")
        resumed.step(iterations - saved)
        found = differences(resumed, trace, "resumed", name)
        assert found
        errors.update({f"{state.name} {key}": value for key, value in found.items()})
    require(errors, SAME_BOUND if name.endswith("_same") else BOUND)


@pytest.mark.golden
@pytest.mark.parametrize("net", FORCE_NETS)
@pytest.mark.parametrize("kind", FORCES)
def test_force(solvers: Path, tmp_path: Path, net: str, kind: str) -> None:
    stored = read(solvers / "force_unit" / "force_unit.npz")
    weight = stored[f"{net}/weight"]
    errors = {}
    for key in (k for k in stored if k.startswith(f"{net}/{kind}/") and k.endswith("/after")):
        _, _, direction, decay, _ = key.split("/")
        path = tmp_path / "solver.prototxt"
        path.write_text(
            f'net: "force_unit/{net}.prototxt" base_lr: 1 lr_policy: "fixed" momentum: 0 '
            "max_iter: 2 display: 0 snapshot_after_train: false force_decay: 0.1 "
            f'force_type: "{kind}" force_direction: "{direction}" force_decay_type: "{decay}"'
        )
        solver = pycaffe.get_solver(str(path))
        solver.net.params["ip"][0].data[...] = weight
        for blob in ("data", "target"):
            solver.net.blobs[blob].data[...] = stored[f"{net}/{blob}"]
        solver.step(1)
        errors[key] = error(solver.net.params["ip"][0].data - weight, stored[key] - weight)
    assert len(errors) == 4
    require(errors, FORCE_BOUND)


def test_all_force_cases_are_run(solvers: Path) -> None:
    stored = read(solvers / "force_unit" / "force_unit.npz")
    after = [key.split("/")[:2] for key in stored if key.endswith("/after")]
    assert len(after) == 4 * len(FORCES) * len(FORCE_NETS)
    assert {kind for _, kind in after} == set(FORCES)
    assert {net for net, _ in after} == set(FORCE_NETS)
