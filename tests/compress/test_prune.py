"""Pruning by magnitude and the statistics of sparsity."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_bridge.compress.rewrite import as_weights_of
from caffe_bridge.compress.sparse import UNITS, Unit, prune, sparsity_table
from caffe_bridge.compress.sparse.units import labels, parse_block
from caffe_bridge.compress.target import Target, find_targets
from caffe_bridge.errors import PlanError, WeightError
from caffe_bridge.schema import StoredBlob, Weights
from tests.compress.sparse_nets import conv, fc, head, layer, masked

TEXT = head() + conv("a", "x", 6, "kernel_size: 3 group: 2") + (
    layer("r", "ReLU", "a", top="a") + fc("f", "a", 4) + fc("t", "f", 3, "transpose: true")
)  # fmt: skip


def target(name: str = "a") -> Target:
    found = find_targets(*masked(TEXT))[name]
    assert isinstance(found, Target)
    return found


@pytest.mark.parametrize(("unit", "count", "first"), [
    (Unit("element"), 6 * 18, 1), (Unit("row"), 6, 18), (Unit("filter"), 6, 18),
    (Unit("column"), 36, 3), (Unit("channel"), 4, 27), (Unit("block", 2, 4), 2 * 2 * 5, 8),
])  # fmt: skip
def test_units_cover_the_matrix(unit: Unit, count: int, first: int) -> None:
    numbers = labels(target(), unit)
    assert numbers.shape == (6, 18)
    assert set(numbers.ravel()) == set(range(count))
    assert (numbers == numbers[0, 0]).sum() == first
    if unit.kind in ("column", "channel", "block"):
        assert not set(numbers[:3].ravel()) & set(numbers[3:].ravel()), "a unit spans two groups"


@pytest.mark.parametrize("kind", UNITS)
def test_the_smallest_units_of_each_layer_become_zero(kind: str) -> None:
    record, weights = masked(TEXT)
    unit = Unit(kind, 2, 3)
    made = prune(record, weights, unit, sparsity=0.5)
    after = find_targets(record, as_weights_of(made.blobs))
    for row in made.layers:
        old, new = find_targets(record, weights)[row.layer], after[row.layer]
        assert isinstance(old, Target) and isinstance(new, Target)
        assert row.zeroed == row.units // 2
        numbers = labels(old, unit)
        dead = ~np.bincount(numbers.ravel(), new.weight.ravel() != 0).astype(bool)
        assert dead.sum() == row.zeroed
        rms = [np.sqrt((old.weight[numbers == i] ** 2).mean()) for i in range(row.units)]
        if kind != "filter":
            assert max(np.array(rms)[dead]) <= min(np.array(rms)[~dead])
        kept = ~dead[numbers]
        np.testing.assert_array_equal(new.weight[kept], old.weight[kept])
        assert row.sparsity == (new.weight == 0).mean()
        assert old.bias is not None and new.bias is not None
        np.testing.assert_array_equal(new.bias == 0, dead if kind == "filter" else new.bias == 9)


def test_threshold_and_layers() -> None:
    record, weights = masked(TEXT)
    made = prune(record, weights, Unit("element"), threshold=0.2, layers=["a"])
    assert [row.layer for row in made.layers] == ["a"]
    old = weights.blobs["a"][0]
    assert old is not None
    np.testing.assert_array_equal(made.blobs["a"][0] == 0, np.abs(old.array()) <= 0.2)
    other = weights.blobs["f"][0]
    assert other is not None
    np.testing.assert_array_equal(made.blobs["f"][0], other.array())


def test_global_scope_takes_the_smallest_of_all_layers() -> None:
    record, weights = masked(TEXT)
    made = prune(record, weights, Unit("element"), sparsity=0.3, scope="global")
    gone, kept = [], []
    for name, (new, *_rest) in made.blobs.items():
        old = weights.blobs[name][0]
        assert old is not None
        gone += np.abs(old.array()[new == 0]).tolist()
        kept += np.abs(old.array()[new != 0]).tolist()
    assert len(gone) == int(0.3 * (len(gone) + len(kept)))
    assert max(gone) <= min(kept)


def test_statistics() -> None:
    record, weights = masked(TEXT, {"a": [0, 1]}, bias=False)
    blob = weights.blobs["a"][0]
    assert blob is not None
    values = blob.array()
    values[:, 1] = 0
    values[5, 0, 0, 0] = 1e-5
    rows = {row.layer: row for row in sparsity_table(record, weights)}
    assert list(rows) == ["a", "f", "t"]
    row = rows["a"]
    assert (row.weights, row.row, row.filter) == (108, 2 / 6, 2 / 6)
    assert row.column == 0.5 and row.channel == 0.5
    assert row.element == pytest.approx((2 * 18 + 4 * 9) / 108)
    assert row.theoretical_speedup == pytest.approx(1 / (4 / 6 * 0.5))
    assert (rows["t"].element, rows["t"].theoretical_speedup) == (0, 1)
    near = sparsity_table(record, weights, 1e-4, ["a"])
    assert [r.element for r in near] == [pytest.approx(73 / 108)]
    biased, stored = masked(TEXT, {"a": [0, 1]})
    first = sparsity_table(biased, stored)[0]
    assert (first.row, first.filter) == (2 / 6, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": Unit("row")}, "either a sparsity or a threshold"),
        ({"unit": Unit("row"), "sparsity": 1.0}, "sparsity is 1"),
        ({"unit": Unit("row"), "threshold": -1.0}, "threshold is -1"),
        ({"unit": Unit("row"), "sparsity": 0.5, "layers": ["b"]}, "has no layer 'b'"),
        ({"unit": Unit("row"), "sparsity": 0.5, "layers": ["r"]}, "r cannot be pruned"),
        ({"unit": Unit("row"), "sparsity": 0.5, "scope": "net"}, "scope 'net'"),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    record, weights = masked(TEXT)
    with pytest.raises(PlanError, match=message):
        prune(record, weights, **settings)


def test_other_refusals() -> None:
    record, weights = masked(TEXT)
    for text in ("3", "0x2", "ax2"):
        with pytest.raises(PlanError, match="ROWSxCOLUMNS"):
            parse_block(text)
    assert parse_block("8x4") == (8, 4)
    with pytest.raises(PlanError, match="unit 'tile'"):
        Unit("tile")
    with pytest.raises(PlanError, match="holds nothing"):
        Unit("block", 0, 1)
    with pytest.raises(PlanError, match="no statistics"):
        sparsity_table(record, weights, layers=["r"])
    with pytest.raises(PlanError, match="no convolution"):
        sparsity_table(record, Weights("w", {}))
    with pytest.raises(PlanError, match="no layer that can be pruned"):
        prune(record, Weights("w", {}), Unit("row"), sparsity=0.5)
    blob = weights.blobs["a"][0]
    assert blob is not None
    broken = {**weights.blobs, "a": [StoredBlob(blob.shape, False, blob.array() * np.nan),
                                     weights.blobs["a"][1]]}  # fmt: skip
    with pytest.raises(WeightError, match="infinite or undefined"):
        prune(record, Weights("w", broken), Unit("row"), sparsity=0.5)
