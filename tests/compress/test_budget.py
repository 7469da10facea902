from __future__ import annotations

import itertools

import numpy as np
import pytest

from caffe_bridge.bench.cost import net_cost
from caffe_bridge.compress import decomposition, parse_plan
from caffe_bridge.compress.budget import budget_plan
from caffe_bridge.compress.rank.budget import Option, allocate
from caffe_bridge.compress.target import find_targets
from caffe_bridge.errors import PlanError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.schema import format_text
from tests.compress.checks import decompose, filled, net_text
from tests.compress.test_planner import layer

TEXT = net_text(
    (2, 4, 12, 12),
    layer("a", "x", "num_output: 16 kernel_size: 3 pad: 1"),
    layer("dw", "a", "num_output: 16 kernel_size: 3 group: 16"),
    layer("b", "dw", "num_output: 24 kernel_size: 3 stride: 2 group: 2"),
    layer("c", "b", "num_output: 20 kernel_size: 1"),
    layer("fc", "c", "num_output: 10", "InnerProduct"),
)
NET, WEIGHTS = filled(TEXT)


def _random_options(seed: int) -> dict[str, list[Option]]:
    random = np.random.default_rng(seed)
    options = {}
    for name in "abc":
        costs = np.sort(random.random(5))
        losses = np.sort(random.random(5))[::-1]
        options[name] = [Option(float(c), float(e)) for c, e in zip(costs, losses, strict=True)]
    return options


@pytest.mark.parametrize("seed", range(10))
def test_allocation_keeps_the_budget_and_comes_near_the_best(seed: int) -> None:
    options = _random_options(seed)
    least = sum(min(o.cost for o in choices) for choices in options.values())
    most = sum(max(o.cost for o in choices) for choices in options.values())
    for budget in np.linspace(least, most, 7):
        picked = allocate(options, float(budget) + 1e-12)
        assert sum(o.cost for o in picked.values()) <= budget + 1e-9
        best = min(
            sum(o.loss for o in choice)
            for choice in itertools.product(*options.values())
            if sum(o.cost for o in choice) <= budget + 1e-9
        )
        # A hull solution is off by at most one step of one layer.
        step = max(a.loss - b.loss for c in options.values() for a, b in itertools.pairwise(c))
        assert best - 1e-9 <= sum(o.loss for o in picked.values()) <= best + step + 1e-9


def test_allocation_without_enough() -> None:
    with pytest.raises(PlanError, match=r"the budget is 0\.5, but the cheapest options cost 2"):
        allocate({"a": [Option(1, 0)], "b": [Option(1, 0), Option(3, 0)]}, 0.5)


@pytest.mark.parametrize("unit", ["macs", "params"])
@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8, 1.0])
def test_the_net_costs_what_the_plan_says(unit: str, keep: float) -> None:
    plan = budget_plan(NET, WEIGHTS, unit=unit, keep=keep)
    assert parse_plan(plan.to_json()) == plan
    before, after = plan.settings[f"{unit}_before"], plan.settings[f"{unit}_after"]
    assert after <= keep * before
    if keep == 1.0:
        assert not plan.decomposed()
    text, weights, _ = decompose(format_text(NET), WEIGHTS, plan.layers)
    whole, small = (Net(parse_net(t), weights=w) for t, w in ((TEXT, WEIGHTS), (text, weights)))
    if unit == "macs":
        assert net_cost(whole).macs - net_cost(small).macs == before - after
    else:
        sizes = [sum(b[0].count for b in w.blobs.values() if b) for w in (WEIGHTS, weights)]
        assert sizes[0] - sizes[1] == before - after


def test_more_budget_less_loss() -> None:
    losses = []
    for keep in (0.3, 0.5, 0.7, 0.9):
        plan = budget_plan(NET, WEIGHTS, keep=keep)
        losses.append(sum(e.error**2 for e in plan.decomposed()))
    assert losses == sorted(losses, reverse=True)


def test_forms_and_alignment() -> None:
    plan = budget_plan(NET, WEIGHTS, keep=0.5, block=4, except_layers=["c"], include_fc=False)
    entries = {entry.layer: entry for entry in plan.layers}
    assert list(entries) == ["a", "dw", "b", "c", "fc"]
    assert entries["c"].reason == "excepted"
    assert "include_fc is off" in entries["fc"].reason
    only = budget_plan(NET, WEIGHTS, keep=0.5, methods=["weight_svd"])
    assert {entry.method for entry in only.decomposed()} == {"weight_svd"}
    for entry in plan.decomposed():
        target = find_targets(NET, WEIGHTS)[entry.layer]
        most = decomposition(entry.method).max_rank(target.blob, target.group)
        assert entry.rank % (4 * target.group) == 0 or entry.rank == most
    assert plan.decomposed()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": "ms"}, "budget unit is 'ms'; give macs or params"),
        ({"keep": 0.0}, "budget keeps 0.0 of the cost; give a share above 0"),
        ({"keep": 0.001}, "but the cheapest options cost"),
        ({"methods": ["pcaa"]}, "unknown decomposition 'pcaa'"),
        ({"methods": ["kmeans"]}, "kmeans has no spectrum"),
        ({"except_layers": ["cc"]}, "except_layers: net.prototxt has no layer 'cc'"),
    ],
)
def test_bad_budgets(arguments: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        budget_plan(NET, WEIGHTS, **arguments)
