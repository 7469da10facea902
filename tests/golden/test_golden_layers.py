"""Every layer case of a real Caffe through the pycaffe interface: values, gradients, state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_bridge import pycaffe
from tests.golden.archive import Case, case_names, error, load, require

CASES = case_names("layers")


def forward(case: Case) -> pycaffe.Net:
    weights = [str(case.weights)] if case.weights else []
    net = pycaffe.Net(str(case.net), *weights, getattr(pycaffe, case.meta["phase"]))
    for name, values in case.arrays("in").items():
        net.blobs[name].reshape(*values.shape)
        net.blobs[name].data[...] = values
    net.forward()
    return net


def backward(net: pycaffe.Net, case: Case) -> None:
    diffs = case.arrays("topdiff")
    for name in net.outputs if diffs else []:
        diffs.setdefault(name, np.array(net.blobs[name].diff))
    net.backward(**diffs)


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_layer(golden: Path, name: str) -> None:
    case = load(golden / "layers" / name)
    net = forward(case)
    errors = {f"out {k}": error(net.blobs[k].data, v) for k, v in case.arrays("out").items()}
    for key, values in case.arrays("param_after").items():
        layer, index = key.split("/")
        errors[f"param_after {key}"] = error(net.params[layer][int(index)].data, values)
    if case.arrays("indiff") or case.arrays("paramdiff"):
        backward(net, case)
    for key, values in case.arrays("indiff").items():
        errors[f"indiff {key}"] = error(net.blobs[key].diff, values)
    for key, values in case.arrays("paramdiff").items():
        layer, index = key.split("/")
        errors[f"paramdiff {key}"] = error(net.params[layer][int(index)].diff, values)
    require(errors)


def test_all_cases_are_here() -> None:
    assert len(CASES) == 339
    assert len(case_names("nets")) == 13
    assert len(case_names("solvers", "trace.npz")) == 33


def test_a_wrong_number_is_found(golden: Path) -> None:
    case = load(golden / "layers" / "Convolution_00")
    net = forward(case)
    want = case.arrays("out")["y"]
    assert error(net.blobs["y"].data, want) < 1e-4
    assert error(np.asarray(net.blobs["y"].data) + 1e-3 * np.abs(want).max(), want) > 5e-4
    assert error(net.blobs["y"].data[:1], want) == float("inf")
    assert error(np.full_like(want, np.nan), want) == float("inf")
