"""Sizes in an exported model: fixed, the batch's ``N``, or known only when the model runs.

A size is found by asking the layers for their shapes again with one thing changed: the batch, or
how many items a layer whose count depends on the values (:attr:`Layer.open_axis`) has found. What
changes with it follows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import Shape, Value
from caffe_bridge.layers.base import Layer
from caffe_bridge.net import Net, infer_shapes
from caffe_bridge.onnx_export.emitter import Dim

#: What layers of open count are taken to find; large, so that it is no other size of the net.
_FOUND = 10007


@dataclass(frozen=True)
class Dims:
    """Sizes of every value, the example batch (0: none), and whether the batch is free."""

    of: dict[str, tuple[Dim, ...]]
    batch: int
    free: bool


def batch_of(net: Net) -> int | None:
    """The common first axis of all entries of the net, or None when they have none."""
    shapes = net.built.shapes
    firsts = {shapes[v.index][0] if shapes[v.index] else None for v in _entries(net)}
    return firsts.pop() if len(firsts) == 1 else None


def dims_of(net: Net, dynamic: bool) -> Dims:
    """Symbolic sizes of a net's values.

    Args:
        net: the net, at its example batch.
        dynamic: whether the batch may be left free.

    Returns:
        ``N`` and ``N*k`` for what follows the batch, ``<top>_size`` and its multiples for what
        follows a layer of open count. Where layers need the example's sizes, those are given, and
        only the layers of open count have an open size.
    """
    layers = net.built.layers
    opened = {
        node.index: node.outputs
        for node in net.built.graph.nodes
        if layers[node.index].open_axis is not None
    }
    found = {index: _FOUND + 10 * place for place, index in enumerate(opened)}
    base = _shapes(net, {}, found) if found else net.built.shapes
    more = {index: _shapes(net, {}, found | {index: found[index] + 1}) for index in opened}
    if base is None or None in more.values():  # what follows takes some counts only
        found, more, base = {}, {}, net.built.shapes
    changes = {
        f"{opened[index][0].name}_size": (found[index], shapes)
        for index, shapes in more.items()
        if shapes is not None
    }
    batch = batch_of(net) or 0
    other = {name: (batch + 1, *shape[1:]) for name, shape in net.inputs.items()}
    entries = {value.blob for value in _entries(net)}
    moved = _shapes(net, other, found) if dynamic and batch and set(other) == entries else None
    if moved is not None:
        symbolic = _all(net, base, changes | {"N": (batch, moved)})
        if symbolic is not None:
            return Dims(_opened(net, layers, symbolic), batch, True)
    fixed = _all(net, base, changes)
    return Dims(_opened(net, layers, fixed or {}), batch, False)


def _shapes(
    net: Net, inputs: Mapping[str, Shape], found: Mapping[int, int]
) -> list[Shape] | None:  # fmt: skip
    """All shapes for other inputs and counts, or None when the layers refuse them."""
    try:
        return infer_shapes(net.built.graph, net.built.layers, inputs, found)
    except ShapeError:
        return None


def _all(
    net: Net, base: list[Shape], changes: Mapping[str, tuple[int, list[Shape]]]
) -> dict[str, tuple[Dim, ...]] | None:
    """Sizes of all values; None where one follows the batch in a way that has no name."""
    made = {}
    for value in net.built.graph.values:
        dims = []
        for axis in range(len(base[value.index])):
            dim = _dim(value, axis, base, changes)
            if dim is None:
                return None
            dims.append(dim)
        made[value.name] = tuple(dims)
    return made


def _dim(
    value: Value, axis: int, base: list[Shape], changes: Mapping[str, tuple[int, list[Shape]]]
) -> Dim | None:
    size = base[value.index][axis]
    moving = {
        symbol: (unit, shapes[value.index][axis])
        for symbol, (unit, shapes) in changes.items()
        if shapes[value.index][axis] != size
    }
    if not moving:
        return size
    if len(moving) == 1:
        ((symbol, (unit, moved)),) = moving.items()
        count, rest = divmod(size, unit)
        if not rest and moved == count * (unit + 1):
            return symbol if count == 1 else f"{symbol}*{count}"
    return None if set(moving) == {"N"} else f"{value.name}_axis{axis}"


def _opened(
    net: Net, layers: list[Layer], dims: Mapping[str, tuple[Dim, ...]]
) -> dict[str, tuple[Dim, ...]]:
    """The sizes, with the example's where there are none, and open counts always open."""
    shapes, graph = net.built.shapes, net.built.graph
    made: dict[str, tuple[Dim, ...]] = {v.name: shapes[v.index] for v in graph.values}
    made.update(dims)
    for node in graph.nodes:
        opened = layers[node.index].open_axis
        for value in node.outputs if opened is not None else ():
            made[value.name] = tuple(
                f"{node.outputs[0].name}_size" if axis == opened else dim
                for axis, dim in enumerate(made[value.name])
            )
    return made


def _entries(net: Net) -> list[Value]:
    return [
        value
        for node in net.built.graph.nodes
        if not node.inputs and not len(net.built.layers[node.index].blobs)
        for value in node.outputs
    ]
