"""The scan that proposes force_decay, against norms computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.cli.main import main
from caffe_bridge.errors import SolverError
from caffe_bridge.net import Net
from caffe_bridge.solver.force import force_gradient
from caffe_bridge.solver.force_scan import SHARES, TYPES, scan_forces
from tests.solver.tiny import write_net


@pytest.fixture
def net(tmp_path: Path) -> Net:
    return Net(write_net(tmp_path), "TRAIN", seed=3)


def test_norms_are_those_of_the_training_step(net: Net) -> None:
    before = [blob.value.detach().clone() for blob in net.learnable]
    scan = scan_forces(net, 3, weight_decay=0.5)
    assert [row.layer for row in scan.rows] == ["ip1"]
    (row,) = scan.rows
    blob = net.learnable[0]
    net.zero_grad()
    net.forward_backward()
    assert blob.value.grad is not None
    gradient = (blob.value.grad + 0.5 * blob.value).detach()
    # One batch is the whole data, so all batches have one gradient.
    assert row.gradient == pytest.approx(float(gradient.norm()), rel=1e-5)
    for kind in TYPES:
        want = float(force_gradient(blob.value, kind).norm())
        assert row.force[kind] == pytest.approx(want, rel=1e-5)
        assert row.ratio(kind) == pytest.approx(want / row.gradient, rel=1e-4)
    for old, now in zip(before, net.learnable, strict=True):
        torch.testing.assert_close(old, now.value.detach(), rtol=0, atol=0)


def test_a_proposal_gives_the_force_its_share(net: Net) -> None:
    scan = scan_forces(net, 1)
    for kind, found in scan.proposals().items():
        for name, share in SHARES.items():
            got = found[name] * scan.rows[0].ratio(kind)
            assert got == pytest.approx(share, rel=0.06)


def test_the_strength_scales_with_force_mult(net: Net) -> None:
    first = scan_forces(net, 1).proposal("Constant", 0.01)
    net.learnable[0].force_mult = 2.0
    assert scan_forces(net, 1).proposal("Constant", 0.01) == pytest.approx(first / 2, rel=0.06)


def test_a_net_without_weights_to_force_is_refused(net: Net) -> None:
    for blob in net.learnable:
        blob.force_mult = 0.0
    with pytest.raises(SolverError, match="0 weights to force"):
        scan_forces(net, 1)


def test_layers_that_no_gradient_reaches_are_left_out(net: Net) -> None:
    for blob in net.learnable:
        if blob.value.ndim >= 2:
            blob.force_mult = 1.0
    assert len(scan_forces(net, 1).rows) == 2
    net.learnable[0].value.requires_grad_(False)
    scan = scan_forces(net, 1)
    assert scan.still == ("ip1",)
    assert [row.layer for row in scan.rows] == ["ip2"]
    assert scan.as_dict()["still"] == ["ip1"] and scan.proposal("Constant", 0.01) > 0
    net.learnable[0].value.requires_grad_(True)
    with torch.no_grad():
        net.learnable[0].value[0, 0] = float("nan")
    with pytest.raises(SolverError, match="gradient of ip1, ip2 is zero or not finite"):
        scan_forces(net, 1)
    for blob in net.learnable:
        blob.value.requires_grad_(blob.value.ndim < 2)
    with pytest.raises(SolverError, match="gradient of ip1, ip2 is zero or not finite"):
        scan_forces(net, 1)


def test_the_verb_takes_a_net_or_a_solver(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_net(tmp_path)
    weights = Net(path, "TRAIN", seed=3).save(tmp_path / "w.caffemodel")
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f"net: '{path}' base_lr: 0.1 lr_policy: 'fixed' weight_decay: 5\n")
    answers = []
    for given in (path, solver):
        assert main(["force-scan", str(given), str(weights), "--batches", "2", "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    plain, decayed = (answer["layers"][0] for answer in answers)
    assert plain["layer"] == "ip1"
    assert set(plain["ratio"]) == set(TYPES)
    assert decayed["force_norm"] == plain["force_norm"]
    assert decayed["gradient_norm"] > plain["gradient_norm"]
    assert np.isfinite(answers[0]["proposals"]["Constant"]["medium"])
    assert main(["force-scan", str(solver), str(weights)]) == 0
    out = capsys.readouterr().out
    assert "proposed force_decay" in out
    assert "Degradation" in out
    assert main(["force-scan", str(tmp_path / "none"), str(weights)]) == 1
