"""Measured errors of a sensitivity scan in plans by time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_bridge.bench import channel_block, machine_info
from caffe_bridge.compress.decompose import decomposition
from caffe_bridge.compress.latency import Request, Timed, plan_for_time, table
from caffe_bridge.compress.latency.forms import Form
from caffe_bridge.compress.latency.measured import MeasuredLosses
from caffe_bridge.compress.latency.options import layer_options, lost
from caffe_bridge.compress.latency.table import LayerTimes
from caffe_bridge.compress.latency.whole import Measured, WholeNet
from caffe_bridge.compress.sensitivity import Point, Scan, read_scan
from caffe_bridge.compress.target import Target, find_targets
from caffe_bridge.errors import PlanError
from tests.compress.checks import GAUSS, filled, net_text
from tests.compress.test_sensitivity import scanned


def _conv(name: str, bottom: str) -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        f"convolution_param {{ num_output: 32 kernel_size: 3 pad: 1 {GAUSS} }} }}"
    )


TEXT = net_text((1, 32, 8, 8), _conv("a", "x"), _conv("b", "a"))


def scan_of(errors: dict[str, dict[int, float]], method: str = "pca", most: int = 32) -> Scan:
    points = tuple(
        Point(name, rank, most, error, 1.0)
        for name, found in errors.items()
        for rank, error in found.items()
    )
    return Scan("b", "agreement", 1.0, method, points)


def targets() -> dict[str, Target]:
    return {n: t for n, t in find_targets(*filled(TEXT)).items() if isinstance(t, Target)}


#: What keeps ranks of equal error apart: a hundredth of the largest loss, by the ranks that go.
APART = 0.01 * 0.16
AT_8, AT_16 = 0.16 + APART * 24 / 32, 0.04 + APART * 16 / 32


def test_forms_of_the_scanned_method_are_looked_up_by_rank() -> None:
    found = targets()
    losses = MeasuredLosses([scan_of({"a": {8: 0.4, 16: 0.2}})], found)
    assert "a" in losses
    assert "b" not in losses
    for method in ("pca", "svd"):
        form = Form(decomposition(method), 8)
        assert losses(found["a"], form, 0.9) == pytest.approx(AT_8)
    middle = losses(found["a"], Form(decomposition("pca"), 12), 0.9)
    assert middle == pytest.approx((AT_8 + AT_16) / 2)


def test_other_forms_are_looked_up_by_the_energy_that_they_lose() -> None:
    target = targets()["a"]
    losses = MeasuredLosses([scan_of({"a": {8: 0.4, 16: 0.2}})], {"a": target})
    spectra: dict[str, Any] = {}
    at = {rank: lost(target, Form(decomposition("pca"), rank), spectra) for rank in (8, 16)}
    spatial = Form(decomposition("spatial"), 16)
    assert losses(target, spatial, at[8]) == pytest.approx(AT_8)
    assert losses(target, spatial, at[16]) == pytest.approx(AT_16)
    assert losses(target, spatial, at[16] / 2) == pytest.approx(AT_16 / 2)
    assert losses(target, spatial, (at[8] + at[16]) / 2) == pytest.approx((AT_8 + AT_16) / 2)
    assert losses(target, spatial, 1.5 * at[8]) == pytest.approx(1.5 * AT_8)


def test_every_method_may_have_its_own_scan() -> None:
    target = targets()["a"]
    scans = [scan_of({"a": {8: 0.4, 16: 0.2}}), scan_of({"a": {8: 0.1}}, "spatial", 96)]
    losses = MeasuredLosses(scans, {"a": target})
    apart = 0.01 * 0.01 * 88 / 96
    assert losses(target, Form(decomposition("spatial"), 8), 0.9) == pytest.approx(0.01 + apart)
    assert losses(target, Form(decomposition("pca"), 8), 0.9) == pytest.approx(AT_8)
    # Others are guessed from the first.
    share = lost(target, Form(decomposition("pca"), 16), {})
    form = Form(decomposition("weight_svd"), 4)
    assert losses(target, form, share) == pytest.approx(AT_16)


def test_scans_of_other_nets_are_refused() -> None:
    with pytest.raises(PlanError, match="has none of the layers of this net"):
        MeasuredLosses([scan_of({"conv9": {8: 0.4}})], targets())
    with pytest.raises(
        PlanError, match=r"gives a a largest rank of 20, a \(Convolution\).* has 32"
    ):
        MeasuredLosses([scan_of({"a": {8: 0.4}}, most=20)], targets())
    other = replace(scan_of({"a": {8: 0.4}}), blob="a")
    with pytest.raises(PlanError, match=r"judge different blobs \(a, b\)"):
        MeasuredLosses([scan_of({"a": {8: 0.4}}), other], targets())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for the stopwatch: a form takes its rank's share of 10 ms, the net 20 ms."""

    def together(sessions: dict[str, object], **_: object) -> dict[str, Timed]:
        ratio = {name: 1.0 if name == "whole" else int(name.split()[1]) / 40 for name in sessions}
        return {name: Timed(10.0 * share, share, 1.0) for name, share in ratio.items()}

    def against(self: WholeNet, forms: dict[str, Form], *_: object) -> Measured:
        shares = [form.rank / 40 for form in forms.values() if isinstance(form.rank, int)]
        after = 20.0 - 10.0 * len(shares) + 10.0 * sum(shares)
        return Measured(20.0, after, 20.0 / after, 19.9 / after, 20.1 / after)

    monkeypatch.setattr(table, "time_together", together)
    monkeypatch.setattr(table, "open_session", lambda *_: None)
    monkeypatch.setattr(WholeNet, "against", against)
    monkeypatch.setattr(WholeNet, "alone", lambda _self: 20.0)


def planned(scan: Scan | None) -> tuple[dict[str, Any], dict[str, Any]]:
    request = Request(1.4, block=4, methods=("pca",), seconds=30.0)
    plan = plan_for_time(*filled(TEXT), request, scans=[scan] if scan else [])
    return {entry.layer: entry for entry in plan.layers}, plan.settings


def test_a_timed_plan_spares_the_layer_that_the_scan_calls_sensitive(machine: None) -> None:
    easy, hard = {4: 0.02, 8: 0.01, 16: 0.005}, {4: 0.9, 8: 0.8, 16: 0.7}
    for layer, other in (("a", "b"), ("b", "a")):
        entries, settings = planned(scan_of({layer: hard, other: easy}))
        assert settings["errors"] == "measured at b"
        assert settings["reached"]
        assert entries[layer].whole
        assert not entries[other].whole
        assert "the scan expects a relative error of" in entries[other].reason
        assert settings["predicted_error"] < 0.05
    assert planned(None)[1]["errors"] == "weights"


def test_where_the_scan_sees_no_difference_the_larger_rank_is_kept(machine: None) -> None:
    entries, settings = planned(scan_of({"a": dict.fromkeys((1, 2, 4, 8, 16, 24), 0.8)}))
    assert settings["reached"]
    assert settings["measured_speedup"] < 1.55
    assert entries["a"].rank >= 8


def test_layers_that_the_scan_lacks_stay(machine: None) -> None:
    entries, _ = planned(scan_of({"a": {4: 0.02, 8: 0.01}}))
    assert entries["b"].whole
    assert entries["b"].reason == "not in the sensitivity scan"
    assert not entries["a"].whole


def test_ranks_at_which_cp_is_degenerate_are_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    target, cp = targets()["a"], decomposition("cp")

    def predicted(_weight: np.ndarray, rank: int, *_: object) -> float:
        if rank == 8:
            raise PlanError("degenerate")
        return 0.5

    monkeypatch.setattr(cp, "predicted_error", predicted)
    times = LayerTimes("a", 10.0, [(Form(cp, 4), 1.0), (Form(cp, 8), 2.0)])
    options = layer_options(target, times, {})
    assert [option.what and option.what.rank for option in options] == [None, 4]


def test_the_block_is_that_of_the_device() -> None:
    assert channel_block("cuda") == channel_block("cuda:1") == 8
    assert channel_block() == channel_block("cpu") == machine_info().channel_block


def test_scans_of_other_layers_and_levels_add_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    assert len(scanned(levels=(0.5,), layers=["f"], cache=path).points) == 1
    assert len(scanned(levels=(0.25, 1.0), layers=["a"], cache=path).points) == 2
    assert [(p.layer, p.rank) for p in read_scan(path).points] == [("a", 2), ("a", 8), ("f", 2)]
    assert [p.rank for p in scanned(levels=(1.0,), layers=["a"], cache=path).points] == [8]
    assert len(read_scan(path).points) == 3
