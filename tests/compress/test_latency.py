"""Allocation within a budget of time, the cache of times, and a plan for a small net."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from caffe_bridge.compress import rewrite
from caffe_bridge.compress.latency import (
    Allowance,
    LatencyCache,
    LayerTimer,
    Option,
    Request,
    Timed,
    against_first,
    allocate,
    bottom_shapes,
    forms_of,
    latency_table,
    plan_for_time,
    table,
    together,
)
from caffe_bridge.compress.latency.options import error_of, predicted_error
from caffe_bridge.compress.latency.single import layer_key
from caffe_bridge.compress.latency.table import coarse_first
from caffe_bridge.compress.plan import parse_plan
from caffe_bridge.compress.rank.align import parts
from caffe_bridge.compress.target import Target, as_record, as_weights, find_targets
from caffe_bridge.errors import PlanError, SchemaError
from caffe_bridge.net import Net
from tests.compress.checks import GAUSS, filled, net_text
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


GOOD = Timed(1.5, 0.5, 1.02)


def test_cache_keeps_times_by_threads(tmp_path: Path) -> None:
    path = tmp_path / "new" / "latency.json"
    cache = LatencyCache(path, 1, "cpu")
    cache.put("conv", GOOD)
    cache.save()
    other = LatencyCache(path, 2, "cpu")
    assert other.get("conv") is None
    other.put("conv", Timed(0.75, 0.25, 1.0))
    other.save()
    assert LatencyCache(path, 1, "cpu").get("conv") == GOOD
    assert LatencyCache(path, 2, "cpu").get("conv") == Timed(0.75, 0.25, 1.0)


def test_cache_discards_what_cannot_be_believed(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    cache = LatencyCache(path, 1, "cpu")
    cache.put("restless", Timed(1.5, 0.5, 1.9))
    assert cache.get("restless") is None
    entries = {
        "good": {"ms": 1.5, "ratio": 0.5, "spread": 1.02},
        "restless": {"ms": 1.5, "ratio": 0.5, "spread": 1.9},
        "number": 3.0,
        "torn": {"ms": 1.5},
        "negative": {"ms": -1.0, "ratio": 0.5, "spread": 1.0},
        "text": {"ms": "1", "ratio": 0.5, "spread": 1.0},
    }
    elsewhere = cache.key.replace("onnxruntime", "onnxruntime 0.1")
    machines = {cache.key: entries, elsewhere: {"other": entries["good"]}}
    path.write_text(json.dumps({"schema_version": 2, "machines": machines}))
    cache = LatencyCache(path, 1, "cpu")
    assert cache.get("good") == GOOD
    assert [name for name in (*entries, "other") if cache.get(name) is not None] == ["good"]


def test_a_cache_of_an_older_schema_counts_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    path.write_text('{"schema_version": 1, "machines": {"m": {"conv": 3.0}}}')
    cache = LatencyCache(path, 1, "cpu")
    assert cache.get("conv") is None
    cache.put("conv", GOOD)
    cache.save()
    assert LatencyCache(path, 1, "cpu").get("conv") == GOOD


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 9, "machines": {}}'])
def test_what_is_no_cache_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(SchemaError, match="latency cache"):
        LatencyCache(path, 1, "cpu")


def test_ratios_are_taken_inside_a_round() -> None:
    # The machine slows down to a third half-way; the form takes half of the layer's time all along.
    load = np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])[:, None]
    found = against_first({"whole": 2.0 * load * np.ones(2), "form": load * np.ones(2)})
    assert found["form"].ratio == 0.5
    assert found["form"].spread == 1.0
    assert not found["form"].unstable
    assert found["whole"].unstable


def test_errors_multiply() -> None:
    assert error_of(0.0) == 0.0
    chosen = [Option(1.0, error_of(0.19)), Option(1.0, error_of(0.36))]
    assert predicted_error(chosen) == pytest.approx((1 - 0.81 * 0.64) ** 0.5)
    # Two layers that keep half are better than one that is all but destroyed.
    assert 2 * error_of(0.5) < error_of(0.9)


TEXT = net_text(
    (2, 32, 12, 12),
    f'layer {{ name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param {{ '
    f"num_output: 64 kernel_size: 3 pad: 1 {GAUSS} }} }}",
)


def layer_c() -> tuple[Target, Mapping[str, list[tuple[int, ...]]]]:
    record, weights = filled(TEXT)
    target = find_targets(record, weights)["c"]
    assert isinstance(target, Target)
    return target, bottom_shapes(Net(record, weights=weights))


class Bench:
    """Stands for the stopwatch: forms take 0.4 of the layer's time, with a given spread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spread: float = 1.0) -> None:
        self.spread = spread
        self.runs: list[list[str]] = []
        monkeypatch.setattr(table, "time_together", self)
        monkeypatch.setattr(table, "open_session", lambda *_: None)

    def __call__(self, sessions: Mapping[str, None], **_: object) -> dict[str, Timed]:
        self.runs.append(list(sessions))
        return {
            name: Timed(10.0, 1.0, 1.0) if name == "whole" else Timed(4.0, 0.4, self.spread)
            for name in sessions
        }


def test_what_is_unstable_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    spreads = [{"whole": 1.0, "a": 1.6, "b": 1.1}, {"whole": 1.0, "a": 1.4}, {"whole": 1, "a": 1.5}]
    asked: list[list[str]] = []

    def rounds(sessions: Mapping[str, None], *_: object) -> dict[str, Timed]:
        asked.append(list(sessions))
        return {name: Timed(1.0, 1.0, spreads[len(asked) - 1][name]) for name in sessions}

    monkeypatch.setattr(together, "_rounds", rounds)
    found = together.time_together(dict.fromkeys(("whole", "a", "b")))  # type: ignore[arg-type]
    assert asked == [["whole", "a", "b"], ["whole", "a"], ["whole", "a"]]
    assert (found["a"].spread, found["b"].spread) == (1.4, 1.1)
    assert found["a"].unstable


def test_known_times_are_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    target, shapes = layer_c()
    cache = LatencyCache(None, 1, "cpu")
    timer = LayerTimer(target, shapes["c"], cache, 1, "cpu")
    forms = forms_of(target, 16, ["pca"])["pca"][:2]
    labels = [form.label for form in forms]
    assert timer(forms) == {"whole": 10.0, labels[0]: 4.0, labels[1]: 4.0}
    assert timer(forms)[labels[0]] == 4.0
    assert bench.runs == [["whole", *labels]]
    other = LayerTimer(target, shapes["c"], cache, 1, "cpu")
    assert other(forms)[labels[1]] == 4.0
    assert len(bench.runs) == 1
    # A fresh ratio comes from new samples, whatever is known.
    assert other.fresh(forms[0]) == 0.4
    assert bench.runs[1:] == [["whole", labels[0]]]


def test_what_stays_unstable_is_said_and_not_cached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Bench(monkeypatch, 1.6)
    target, shapes = layer_c()
    cache = LatencyCache(tmp_path / "latency.json", 1, "cpu")
    lines: list[str] = []
    times, _ = latency_table(
        {"c": target}, shapes, cache, methods=["pca"], progress=lines.append
    )  # fmt: skip
    assert len(times["c"].unstable) == len(times["c"].forms) > 0
    assert "unstable" in lines[0]
    known = json.loads((tmp_path / "latency.json").read_text())["machines"][cache.key]
    assert [name.split("| ")[1] for name in known] == ["whole"]


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize(("channels", "outputs", "group"), [(96, 256, 2), (256, 384, 1)])
def test_candidates_are_aligned_to_the_block(
    channels: int, outputs: int, group: int, block: int
) -> None:
    text = net_text(
        (1, channels, 9, 9),
        f'layer {{ name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param {{ '
        f"num_output: {outputs} kernel_size: 3 group: {group} {GAUSS} }} }}",
    )
    target = find_targets(*filled(text))["c"]
    assert isinstance(target, Target)
    found = forms_of(target, block)
    assert list(found) == ["pca", "weight_svd", "spatial", "tucker"]
    for forms in found.values():
        assert len(forms) >= 2
        for form in forms:
            most = form.method.max_rank(target.blob, group)
            for part, limit in zip(parts(form.rank), parts(most), strict=True):
                assert part == limit or part % (block * group) == 0


def test_ranks_are_measured_from_coarse_to_fine() -> None:
    assert coarse_first(0) == []
    for count in (1, 2, 5, 16):
        order = coarse_first(count)
        assert sorted(order) == list(range(count))
        assert order[0] == 0
    assert set(coarse_first(15)[:4]) == {0, 8, 4, 12}


def test_larger_ranks_than_a_slow_one_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    Bench(monkeypatch)
    target, shapes = layer_c()
    cache = LatencyCache(None, 1, "cpu")
    forms = forms_of(target, 4, ["pca"])["pca"]
    key = f"{layer_key(target, shapes['c'][0])} | "
    cache.put(f"{key}{forms[4].label}", Timed(12.0, 1.2, 1.0))
    times, _ = latency_table({"c": target}, shapes, cache, block=4, methods=["pca"])
    measured = [form.label for form, _ in times["c"].forms]
    assert len(forms) > 6
    assert measured[:5] == [form.label for form in forms[:5]]
    # The largest stood in the first handful; those between have no chance.
    assert measured[5:] == [forms[-1].label]
    assert times["c"].missing == 0


def test_measuring_ends_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    target, shapes = layer_c()
    # Time stands still while the allowance is made and shared out, then it is up at once.
    ticks = iter([0.0] * 3 + [9.0] * 99)
    lines: list[str] = []
    times, _ = latency_table(
        {"c": target}, shapes, LatencyCache(None, 1, "cpu"),
        allowance=Allowance(5.0, lambda: next(ticks)), progress=lines.append,
    )  # fmt: skip
    assert len(bench.runs) == 1
    assert [form.label for form, _ in times["c"].forms] == sorted(bench.runs[0][1:])
    assert times["c"].missing > 0
    assert "not measured (time is up)" in lines[0]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(), "exactly one of a target"),
        (Request(2.0, 3.0), "exactly one of a target"),
        (Request(0.5), "a number above 1"),
        (Request(None, -1.0), "budget is -1.0 ms"),
        (Request(2.0, seconds=0.0), "measuring may take 0.0 s"),
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
    request = Request(1.3, methods=("weight_svd",), seconds=20.0)
    plan = plan_for_time(net, weights, request, cache=cache)
    timed = [entry for entry in plan.layers if entry.ms_before is not None]
    assert [entry.layer for entry in timed] == ["conv1", "conv2", "conv3", "ip1", "ip2"]
    assert all((e.ms_after or 0) <= 0.97 * (e.ms_before or 0) for e in plan.decomposed())
    assert parse_plan(plan.to_json()) == plan
    made, _ = rewrite(as_record(net), as_weights(weights), plan)
    assert len(made.layer) == len(as_record(net).layer) + len(plan.decomposed())
    low, high = plan.settings["measured_interval"]
    assert low <= plan.settings["measured_speedup"] <= high
    assert plan.settings["reached"] == (plan.settings["verdict"] == "reached")
    if plan.settings["reached"]:
        assert plan.settings["measured_speedup"] >= 0.93 * 1.3


def test_a_net_too_small_to_gain_stays_whole() -> None:
    text = net_text(
        (1, 2, 4, 4),
        f'layer {{ name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param {{ '
        f"num_output: 4 kernel_size: 1 {GAUSS} }} }}",
    )
    plan = plan_for_time(*filled(text), Request(2.0, seconds=5.0))
    assert plan.decomposed() == []
    assert plan.settings["reached"] is False
    assert plan.settings["verdict"].startswith("no gain is possible")
    assert plan.layers[0].reason == "no aligned rank saves multiply-accumulates"


def test_a_budget_that_holds_already() -> None:
    plan = plan_for_time(*filled(TEXT), Request(None, 1e6, seconds=5.0, methods=("pca",)))
    assert plan.decomposed() == []
    assert plan.settings["reached"] is True
    assert "is within the budget" in plan.settings["verdict"]
