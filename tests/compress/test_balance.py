"""Balanced factors: equal norms of each rank, the same net."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_bridge.compress.balance import balance
from caffe_bridge.compress.rewrite import as_weights_of
from caffe_bridge.net import Net
from tests.compress.sparse_nets import conv, fc, head, layer, masked

POINT = "kernel_size: 1"


def both(text: str, dead: dict | None = None) -> tuple[dict, list, float]:
    """Blobs and pairs after balancing, and how far the net's answers moved."""
    record, weights = masked(text, dead, bias=False)
    made, blobs, pairs = balance(record, weights)
    assert made == record
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (old,) = Net(record, weights=weights)({"x": x}).values()
        (new,) = Net(record, weights=as_weights_of(blobs))({"x": x}).values()
    return blobs, pairs, float((old - new).abs().max() / old.abs().max())


@pytest.mark.parametrize("group", [1, 2])
def test_a_convolution_pair(group: int) -> None:
    text = head() + conv("a_lowrank", "x", 6, f"kernel_size: 3 group: {group}", pad=1) + (
        conv("a_linear", "a_lowrank", 8, f"{POINT} group: {group}")
        + layer("r", "ReLU", "a_linear", top="a_linear") + conv("b", "a_linear", 3)
    )  # fmt: skip
    blobs, pairs, moved = both(text)
    assert [(p.first, p.second, p.ranks) for p in pairs] == [("a_lowrank", "a_linear", 6)]
    assert pairs[0].ratio > 1.2 and moved < 1e-5
    first = np.linalg.norm(blobs["a_lowrank"][0].reshape(6, -1), axis=1)
    upper = blobs["a_linear"][0].reshape(group, 8 // group, 6 // group)
    np.testing.assert_allclose(first, np.linalg.norm(upper, axis=1).ravel(), rtol=1e-4)


@pytest.mark.parametrize("turn", ["", "transpose: true"])
def test_fully_connected_and_dead_ranks(turn: str) -> None:
    text = head() + fc("a", "x", 5, f"{turn}") + fc("b", "a", 3, f"{turn}")
    blobs, pairs, moved = both(text, {"a": [2]})
    assert len(pairs) == 1 and moved < 1e-5
    first = blobs["a"][0].T if turn else blobs["a"][0]
    second = blobs["b"][0] if turn else blobs["b"][0].T
    one, other = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    alive = np.arange(5) != 2
    np.testing.assert_allclose(one[alive], other[alive], rtol=1e-4)
    assert one[2] == 0 and other[2] > 0


def test_a_chain_of_three() -> None:
    text = head() + conv("a", "x", 3, POINT) + conv("b", "a", 4) + conv("c", "b", 6, POINT)
    blobs, pairs, moved = both(text)
    assert [(p.first, p.second) for p in pairs] == [("a", "b"), ("b", "c")] and moved < 1e-5
    rows = [np.linalg.norm(blobs[n][0].reshape(len(blobs[n][0]), -1), axis=1) for n in "ab"]
    columns = [np.sqrt((blobs[n][0] ** 2).sum((0, 2, 3))) for n in "bc"]
    for row, column in zip(rows, columns, strict=True):
        np.testing.assert_allclose(row, column, rtol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        head() + conv("a", "x", 6) + layer("r", "ReLU", "a", top="a") + conv("b", "a", 3),
        head() + conv("a", "x", 6) + conv("b", "a", 6, POINT) + layer("s", "Eltwise", "a b"),
        head() + conv("a", "x", 6).replace("convolution_p", 'param { name: "w" } convolution_p')
        + conv("b", "a", 3),
    ],
)  # fmt: skip
def test_what_stands_between_or_is_shared_is_left(text: str) -> None:
    _, pairs, moved = both(text)
    assert pairs == [] and moved == 0
