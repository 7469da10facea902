"""What a layer answers on data, and the low-rank map that comes nearest to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from caffe_bridge.compress.calibration import Feed, Moments, columns
from caffe_bridge.compress.decompose.base import LOWRANK
from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError
from caffe_bridge.net import Net

#: U_r [N, r], U_r^T A [r, N] and what the bias gains, of one group.
Factors = tuple[np.ndarray, np.ndarray, np.ndarray]
#: Share of the mean eigenvalue that is added before a second moment is inverted.
RIDGE = 1e-6


def node_index(net: Net, name: str) -> int:
    """Place of a layer in a net.

    Raises:
        PlanError: it is not there.
    """
    for index, layer in enumerate(net.built.layers):
        if layer.name == name:
            return index
    raise PlanError(f"{name} is not in the TEST net, where its answers are needed; make it whole.")


def _axis(net: Net, index: int, target: Target) -> int:
    """The axis of the filters in the layer's top."""
    shape = net.built.shapes[net.built.graph.nodes[index].outputs[0].index]
    return len(shape) - 1 - len(target.kernel)


def _sample(sizes: Sequence[int], axis: int, positions: int, seed: int) -> list[int] | None:
    """Flat places of a blob without ``axis``: ``positions`` for each batch item, or all."""
    if not positions:
        return None
    items = int(np.prod(sizes[:axis], dtype=int))
    places = int(np.prod(sizes[axis + 1 :], dtype=int))
    if places <= positions:
        return None
    random = np.random.default_rng(seed)
    return [
        i * places + int(p) for i in range(items) for p in random.permutation(places)[:positions]
    ]


@torch.no_grad()
def responses(
    net: Net, target: Target, feeds: Sequence[Feed], other: Net | None = None, positions: int = 32
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Responses of a layer without bias, batch by batch: for every group y and g [N / group, n].

    Args:
        net: the whole net, whose layer gives y.
        target: the layer.
        feeds: batches.
        other: the net whose values enter ``<layer>_lowrank``, for g; y itself when None.
        positions: places of each item that are sampled; 0 for all.
    """
    index = node_index(net, target.name)
    layer, node = net.built.layers[index], net.built.graph.nodes[index]
    axis = _axis(net, index, target)
    bias = 0.0 if target.bias is None else target.bias.astype(np.float64)[:, None]
    for number, feed in enumerate(feeds):
        values = net.run(feed)
        tops = [values[v.index] for v in node.outputs]
        inexact = tops
        if other is not None:
            place = node_index(other, target.name + LOWRANK)
            theirs = other.run(feed)
            bottoms = [theirs[v.index] for v in other.built.graph.nodes[place].inputs]
            inexact = layer.run(bottoms)
        for y, g in zip(tops, inexact, strict=True):
            picked = _sample(y.shape, axis, positions, number)
            one, two = (np.split(columns(v, axis, picked) - bias, target.group) for v in (y, g))
            yield list(zip(one, two, strict=True))


def moments(
    net: Net, target: Target, feeds: Sequence[Feed], other: Net | None = None, positions: int = 32
) -> list[Moments]:
    """Second moments of a layer's :func:`responses`, for every group."""
    found = [Moments(target.num_output // target.group) for _ in range(target.group)]
    for batch in responses(net, target, feeds, other, positions):
        for part, (y, g) in zip(found, batch, strict=True):
            part.add(y, g)
    return found


def regress(found: Moments, rank: int, exact: bool) -> Factors:
    """U_r [N, r], U_r^T A [r, N] and the bias mu_y - U_r U_r^T A mu_g of one group.

    Args:
        found: the moments.
        rank: r.
        exact: whether g is y, so that A = I.
    """
    yy, yg, gg = found.covariances
    if exact:
        vectors = np.linalg.eigh(yy)[1][:, ::-1][:, :rank]
        reduced = vectors.T
    else:
        ridge = RIDGE * np.trace(gg) / len(gg) + np.finfo(float).tiny
        full = np.linalg.solve(gg + ridge * np.eye(len(gg)), yg.T).T
        vectors = np.linalg.eigh(full @ gg @ full.T)[1][:, ::-1][:, :rank]
        reduced = vectors.T @ full
    mean_y, mean_g = found.means
    return vectors, reduced, mean_y - vectors @ (reduced @ mean_g)
