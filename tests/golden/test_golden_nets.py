"""Whole nets of a real Caffe: legacy formats, rules of phase, level and stage, and their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caffe_bridge import pycaffe
from tests.golden.archive import case_names, error, load, require


@pytest.mark.golden
@pytest.mark.parametrize("name", case_names("nets"))
def test_net(golden: Path, name: str) -> None:
    case = load(golden / "nets" / name)
    meta = case.meta
    more: dict[str, Any] = {"weights": str(case.weights)} if case.weights else {}
    phase = getattr(pycaffe, meta["phase"])
    net = pycaffe.Net(str(case.net), phase, level=meta["level"], stages=meta["stages"], **more)
    layers = [[n, v.type] for n, v in zip(net._layer_names, net.layers, strict=True)]
    assert [entry for entry in layers if entry[1] != "Split"] == meta["layers"]
    shapes = {name: list(blob.data.shape) for name, blob in net.blobs.items()}
    assert {k: v for k, v in shapes.items() if "_split_" not in k} == meta["blobs"]
    for blob, values in case.arrays("in").items():
        net.blobs[blob].data[...] = values
    net.forward()
    if case.arrays("out"):
        require({k: error(net.blobs[k].data, v) for k, v in case.arrays("out").items()})
