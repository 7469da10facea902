"""Allocation within a budget of time, the cache of times, and a plan for a small net."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_bridge.compress import rewrite
from caffe_bridge.compress.latency import (
    LatencyCache,
    Option,
    Request,
    allocate,
    plan_for_time,
)
from caffe_bridge.compress.plan import parse_plan
from caffe_bridge.compress.target import as_record, as_weights
from caffe_bridge.errors import PlanError, SchemaError
from tests.shared import SHARED

OPTIONS = {
    "a": [Option(10.0, 0.0), Option(5.0, 0.1), Option(2.0, 0.5)],
    "b": [Option(8.0, 0.0), Option(4.0, 0.3), Option(1.0, 0.4)],
}


@pytest.mark.parametrize(
    ("budget", "ms", "fits"),
    [(20.0, (10.0, 8.0), True), (13.0, (5.0, 8.0), True), (6.0, (5.0, 1.0), True),
     (3.0, (2.0, 1.0), True), (1.0, (2.0, 1.0), False)],
)  # fmt: skip
def test_allocation(budget: float, ms: tuple[float, float], fits: bool) -> None:
    choice, held = allocate(OPTIONS, budget)
    assert (choice["a"].ms, choice["b"].ms) == ms
    assert held is fits


def test_the_rest_of_the_budget_is_spent() -> None:
    # The option at 4 ms lies above the hull, so that only the greedy pass can find it.
    options = {"a": [Option(10.0, 0.0), Option(4.0, 0.5), Option(1.0, 0.6)]}
    choice, held = allocate(options, 5.0)
    assert held
    assert choice["a"].ms == 4.0


def test_cache_keeps_times_by_threads(tmp_path: Path) -> None:
    path = tmp_path / "new" / "latency.json"
    cache = LatencyCache(path, 1, "cpu")
    cache.put("conv", 1.5)
    cache.save()
    other = LatencyCache(path, 2, "cpu")
    assert other.get("conv") is None
    other.put("conv", 0.75)
    other.save()
    assert LatencyCache(path, 1, "cpu").get("conv") == 1.5
    assert LatencyCache(path, 2, "cpu").get("conv") == 0.75


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 9, "machines": {}}'])
def test_what_is_no_cache_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(SchemaError, match="latency cache"):
        LatencyCache(path, 1, "cpu")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(), "exactly one of a target"),
        (Request(2.0, 3.0), "exactly one of a target"),
        (Request(0.5), "a number above 1"),
        (Request(None, -1.0), "budget is -1.0 ms"),
    ],
)
def test_wrong_requests(request_: Request, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        request_.target(1.0)


def test_plan_of_a_trained_net(tmp_path: Path) -> None:
    folder = SHARED / "models" / "cifar10_quick"
    if not folder.is_dir():
        pytest.skip("no shared models")
    net, weights = folder / "deploy.prototxt", folder / "weights.caffemodel"
    cache = str(tmp_path / "latency.json")
    plan = plan_for_time(net, weights, Request(1.3, methods=("weight_svd",)), cache=cache)
    timed = [entry for entry in plan.layers if entry.ms_before is not None]
    assert [entry.layer for entry in timed] == ["conv1", "conv2", "conv3", "ip1", "ip2"]
    assert all((e.ms_after or 0) <= 0.97 * (e.ms_before or 0) for e in plan.decomposed())
    assert parse_plan(plan.to_json()) == plan
    made, _ = rewrite(as_record(net), as_weights(weights), plan)
    assert len(made.layer) == len(as_record(net).layer) + len(plan.decomposed())
    if plan.settings["verdict"] == "reached":
        assert plan.settings["measured_speedup"] >= 0.93 * 1.3
