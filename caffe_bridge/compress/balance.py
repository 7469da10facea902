"""Balanced factors: two layers with nothing between them share their scale rank by rank.

After a decomposition y = U (L x + b_L) + b_U any positive s_j per rank gives the same net:

    L'_j = s_j L_j,   b_L'_j = s_j b_L_j,   U'_j = U_j / s_j,   s_j = sqrt(|U_j| / |L_j|)

makes |L'_j| = |U'_j|: no factor holds all of the scale (PCA's first one does), and the values
between the two layers spread less over the channels, which one int8 scale for all of them likes.
Ranks of which one side is zero stay. In a chain of three the pairs are balanced in turn until
nothing moves. The net's answer changes by rounding only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffe_bridge.compress.plan import Plan
from caffe_bridge.compress.rewrite import Blobs, rewrite
from caffe_bridge.compress.target import NetLike, WeightsLike, as_record, as_weights
from caffe_bridge.graph import Graph, Node, load_net, wire
from caffe_bridge.schema import Record

_TYPES = ("Convolution", "InnerProduct")
_SWEEPS = 50
_STILL = 1e-4


@dataclass(frozen=True)
class BalancedPair:
    """Two layers in a row, and the largest ratio of their per-rank norms before."""

    first: str
    second: str
    ranks: int
    ratio: float


def _pairs(graph: Graph, record: Record, blobs: Blobs) -> list[tuple[Node, Node]]:
    names = [layer.name for layer in record.layer]
    shared = {layer.name for layer in record.layer for spec in layer.param if spec.name}
    readers: dict[str, int] = {}
    for layer in record.layer:
        for bottom in set(layer.bottom):
            readers[bottom] = readers.get(bottom, 0) + 1

    def fits(node: Node) -> bool:
        layer = node.layer
        return (
            layer.type in _TYPES and len(layer.bottoms) == len(layer.tops) == 1
            and layer.name in blobs and layer.name not in shared and names.count(layer.name) == 1
            and not (layer.type == "InnerProduct" and layer.record.inner_product_param.normalize)
        )  # fmt: skip

    found = []
    for node in graph.nodes:
        if not fits(node) or len(node.outputs[0].consumers) != 1:
            continue
        other = graph.nodes[node.outputs[0].consumers[0]]
        in_place = node.layer.bottoms == node.layer.tops
        if fits(other) and readers.get(node.layer.tops[0]) == 1 and not in_place:
            found.append((node, other))
    return found


def _rows(node: Node, weight: np.ndarray) -> np.ndarray:
    """A view (N, inputs of a group, positions) of a weight."""
    if node.layer.type == "InnerProduct":
        matrix = weight.T if node.layer.record.inner_product_param.transpose else weight
        return matrix[:, :, None]
    return weight.reshape(*weight.shape[:2], -1)


def _columns(node: Node, weight: np.ndarray, ranks: int) -> np.ndarray:
    """A view (groups, N / group, ranks of a group, positions) of the weight that reads them."""
    rows = _rows(node, weight)
    if node.layer.type == "InnerProduct":
        return rows.reshape(1, len(rows), ranks, -1)
    group = int(node.layer.record.convolution_param.group)
    return rows.reshape(group, len(rows) // group, ranks // group, -1)


def _balance(first: Node, second: Node, blobs: Blobs) -> float:
    """Balance a pair in place; the largest ratio of norms before."""
    lower = _rows(first, blobs[first.layer.name][0])
    ranks = len(lower)
    upper = _columns(second, blobs[second.layer.name][0], ranks)
    one = np.sqrt((lower**2).sum((1, 2)))
    other = np.sqrt((upper**2).sum((1, 3))).reshape(-1)
    alive = (one > 0) & (other > 0)
    scale = np.ones(ranks)
    scale[alive] = np.sqrt(other[alive] / one[alive])
    lower *= scale[:, None, None]
    upper /= scale.reshape(upper.shape[0], 1, -1, 1)
    if len(blobs[first.layer.name]) > 1:
        blobs[first.layer.name][1] *= scale
    return float(np.maximum(scale, 1 / scale).max() ** 2)


def balance(net: NetLike, weights: WeightsLike) -> tuple[Record, Blobs, list[BalancedPair]]:
    """Balance all pairs of convolutions and fully connected layers with nothing between them.

    Args:
        net: path, record or spec; it does not change.
        weights: trained weights.

    Returns:
        The net, the blobs of all its layers that have any, and the pairs.

    Raises:
        BridgeError: the net or the weights cannot be read.
    """
    record, stored = as_record(net), as_weights(weights)
    same, blobs = rewrite(record, stored, Plan([]))
    kinds = {name: [a.dtype for a in arrays] for name, arrays in blobs.items()}
    pairs = _pairs(wire(load_net(record, "TEST")), record, blobs)
    for name in {node.layer.name for pair in pairs for node in pair}:
        blobs[name] = [np.ascontiguousarray(a, np.float64).copy() for a in blobs[name]]
    ratios = [_balance(first, second, blobs) for first, second in pairs]
    rows = [
        BalancedPair(a.layer.name, b.layer.name, len(_rows(a, blobs[a.layer.name][0])), ratio)
        for (a, b), ratio in zip(pairs, ratios, strict=True)
    ]  # fmt: skip
    for _ in range(_SWEEPS if pairs else 0):
        if max(_balance(first, second, blobs) for first, second in pairs) < 1 + _STILL:
            break
    for name, arrays in blobs.items():
        blobs[name] = [a.astype(k) for a, k in zip(arrays, kinds[name], strict=True)]
    return same, blobs, rows
