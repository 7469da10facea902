"""Take zero filters, input channels and groups out of a pruned net.

The net keeps its layers; their tensors become smaller. A filter that is zero makes a constant: its
bias, changed by what follows (BatchNorm, Scale, ReLU, pooling, ...). Where a layer W x + b reads
the constant k_c from a removed channel c,

    b' = b + sum_c k_c sum_positions W[:, c]

which is exact if no padding mixes zeros into the constant; elsewhere the channel stays unless k_c
is 0. Channels that no filter reads go too. See :mod:`caffe_bridge.compress.sparse.removable`.
Before that kernels lose their zero borders (:mod:`caffe_bridge.compress.sparse.trim`).
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from caffe_bridge.compress.plan import Plan
from caffe_bridge.compress.rewrite import Blobs, as_weights_of, rewrite
from caffe_bridge.compress.sparse.removable import Removable
from caffe_bridge.compress.sparse.roles import (
    CUT,
    FILTERS,
    SAME,
    WALL,
    Bank,
    Role,
    role_of,
    swap_deconvolution,
)
from caffe_bridge.compress.sparse.trim import trim_kernels
from caffe_bridge.compress.target import NetLike, WeightsLike, as_record, as_weights
from caffe_bridge.errors import PlanError, SchemaError
from caffe_bridge.graph import Node, Shape, load_net
from caffe_bridge.net import Net, with_inputs
from caffe_bridge.onnx_export.verify import difference
from caffe_bridge.schema import Record, save_weights, write_text

#: Largest relative difference between the outputs of the masked and the smaller net.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class ShrunkLayer:
    """A layer with filters before and after; ``kept`` says why constant filters stayed.

    ``kernel`` is the kernel before and after, where it lost its border.
    """

    layer: str
    filters: tuple[int, int]
    inputs: tuple[int, int]
    weights: tuple[int, int]
    kept: dict[str, int]
    kernel: tuple[tuple[int, ...], tuple[int, ...]] | None = None


@dataclass(frozen=True)
class Shrunk:
    """The smaller net (all phases), its blobs, a row for each layer, and the check.

    ``worst`` is the largest difference of an output between the given and the smaller net on random
    inputs, relative to the largest value of that output.
    """

    net: Record
    blobs: Blobs
    layers: tuple[ShrunkLayer, ...]
    worst: float

    @property
    def weights(self) -> tuple[int, int]:
        """Weights of all layers with filters before and after, biases not counted."""
        before = sum(row.weights[0] for row in self.layers)
        return before, sum(row.weights[1] for row in self.layers)


def _pinned(record: Record, net: Net) -> dict[str, str]:
    """Blobs that layers of other phases read."""
    inside = {layer.name for layer in net.spec.layers}
    return {
        blob: f"{layer.name} ({layer.type}) of another phase reads it"
        for layer in record.layer if layer.name not in inside and layer.bottom
        for blob in (*layer.bottom, *layer.top)
    }  # fmt: skip


def _roles(record: Record, net: Net) -> list[Role]:
    """Roles of all nodes; a layer that cannot be changed by its name is a wall."""
    users: Counter[int] = Counter()
    for slot in net.built.slots:
        users[slot.owner] += 1
    shared = {s.layer for s in net.built.slots if users[s.owner] > 1}
    kinds: dict[str, set[str]] = {}
    for layer in record.layer:
        kinds.setdefault(layer.name, set()).add(layer.type)
    times = Counter(node.layer.name for node in net.built.graph.nodes)
    roles = []
    for node in net.built.graph.nodes:
        role, name = role_of(net, node), node.layer.name
        blobs = len(net.built.layers[node.index].blobs)
        if node.index in shared and role.kind != WALL:
            role = Role(WALL, f"{name} ({node.layer.type}) shares its weights")
        elif blobs and (len(kinds.get(name, ())) > 1 or times[name] > 1):
            role = Role(WALL, f"{name} ({node.layer.type}) has its name several times")
        roles.append(role)
    return roles


def _param(layer: Record) -> Record:
    name = "inner_product_param" if layer.type == "InnerProduct" else "convolution_param"
    found: Record = layer.mutable(name)
    return found


@dataclass
class _Change:
    """What becomes of a layer with filters."""

    filters: int
    group: int
    weight: np.ndarray
    bias: np.ndarray | None

    def apply(self, layer: Record) -> None:
        """Change a LayerParameter."""
        param = _param(layer)
        param.num_output = self.filters
        if layer.type != "InnerProduct" and param.has("group"):
            param.group = self.group
        if self.bias is not None and not param.bias_term:
            param.clear("bias_term")
        for spec in layer.param:
            spec.clear("decay_proto")


def _smaller(found: Removable, node: Node, bank: Bank) -> _Change:
    bottom, top = node.inputs[0].index, node.outputs[0].index
    groups = found.kept_groups(bank, bottom, top)
    known = np.nan_to_num(found.constants[bottom])
    weights, biases, added = [], [], False
    for index in groups:
        rows, columns = bank.of_group(index)
        out, kept = ~found.free[top][rows], ~found.free[bottom][columns]
        part = bank.weight[rows][out]
        share = part[:, ~kept].sum(2) @ known[columns][~kept]
        added = added or bool(share.any())
        bias = np.zeros(len(bank.weight)) if bank.bias is None else bank.bias
        biases.append(bias[rows][out] + share)
        weights.append(part[:, kept])
    weight = np.concatenate(weights)
    made = np.concatenate(biases) if bank.bias is not None or added else None
    return _Change(len(weight), len(groups), weight, made)


def _stored(weight: np.ndarray, node: Node, old: np.ndarray, group: int) -> np.ndarray:
    """A weight (N, C / group, positions) in the layout of the layer's blob."""
    record = node.layer.record
    if record.type == "InnerProduct":
        matrix = weight.reshape(len(weight), -1)
        matrix = matrix.T if record.inner_product_param.transpose else matrix
    else:
        matrix = weight.reshape(*weight.shape[:2], *old.shape[2:])
        if record.type == "Deconvolution":
            matrix = swap_deconvolution(matrix, group)
    return np.ascontiguousarray(matrix, old.dtype)


class _Writer:
    """Applies what may go to a NetParameter and its blobs."""

    def __init__(self, record: Record, blobs: Blobs, found: Removable) -> None:
        self.found, self.blobs = found, dict(blobs)
        self.net = record.copy()
        self.rows: list[ShrunkLayer] = []
        for node, role in zip(found.net.built.graph.nodes, found.roles, strict=True):
            if role.kind == FILTERS and role.bank is not None:
                self._filters(node, role.bank)
            elif role.kind == SAME:
                self._same(node)
            elif role.kind == CUT and len(node.outputs) > 1:
                kept = [int((~found.free[v.index]).sum()) for v in node.outputs]
                for layer in self._records(node):
                    layer.mutable("slice_param").slice_point = np.cumsum(kept)[:-1].tolist()

    def _records(self, node: Node) -> list[Record]:
        return [layer for layer in self.net.layer if layer.name == node.layer.name]

    def _filters(self, node: Node, bank: Bank) -> None:
        change = _smaller(self.found, node, bank)
        bottom, top = node.inputs[0].index, node.outputs[0].index
        constant = ~np.isnan(self.found.constants[top]) & ~self.found.free[top]
        kept = Counter(str(r) for r in self.found.why[top][constant])
        self.rows.append(ShrunkLayer(
            node.layer.name, (len(bank.weight), change.filters),
            (bank.inputs, int((~self.found.free[bottom]).sum())),
            (bank.weight.size, change.weight.size), dict(kept),
        ))  # fmt: skip
        if change.weight.shape == bank.weight.shape:
            return
        for layer in self._records(node):
            change.apply(layer)
        name = node.layer.name
        old = self.blobs[name][0]
        self.blobs[name] = [_stored(change.weight, node, old, change.group)]
        if change.bias is not None:
            self.blobs[name].append(change.bias.astype(old.dtype))

    def _same(self, node: Node) -> None:
        gone = self.found.free[node.inputs[0].index]
        name = node.layer.name
        if gone.any() and name in self.blobs:
            self.blobs[name] = [
                blob[~gone] if blob.shape == gone.shape else blob for blob in self.blobs[name]
            ]


def shrink(
    net: NetLike, weights: WeightsLike, inputs: Mapping[str, Shape] | None = None, seed: int = 0
) -> Shrunk:
    """Remove what contributes nothing, and compare the smaller net with the given one.

    Args:
        net: path or record; the channels are followed through its TEST net, and the layers of the
            other phases change along.
        weights: the weights with zeros in them.
        inputs: shapes of blobs that stand for data layers, whose data is not needed then.
        seed: seed of the inputs on which both nets are compared.

    Raises:
        PlanError: the outputs differ by more than 1e-5.
        BridgeError: the net cannot be built, or the weights do not belong to it.
    """
    record, stored = as_record(net), as_weights(weights)
    model = _model(record, stored, inputs)
    missing = [name for name in model.missing if len(model.layer(name).blobs)]
    if missing:
        raise PlanError(
            f"{stored.source}: holds no weights for {', '.join(missing[:5])}; use the weights that "
            "belong to this net."
        )
    same, blobs = rewrite(record, stored, Plan([]))
    trimmed, blobs, kernels = trim_kernels(same, blobs)
    start = _model(trimmed, as_weights_of(blobs), inputs) if kernels else model
    found = Removable(start, _roles(record, start), _pinned(record, start))
    made = _Writer(trimmed, blobs, found)
    rows = [_with_kernel(row, kernels.get(row.layer), made.blobs) for row in made.rows]
    smaller = _model(made.net, as_weights_of(made.blobs, "the smaller net"), inputs)
    worst = largest_difference(model, smaller, seed)
    if not worst <= TOLERANCE:
        raise PlanError(
            f"{stored.source}: the net without its zeros differs by {worst:.2g} relative from the "
            f"masked one (allowed {TOLERANCE:g}); nothing is written."
        )
    return Shrunk(made.net, made.blobs, tuple(rows), worst)


def _with_kernel(
    row: ShrunkLayer, kernel: tuple[tuple[int, ...], tuple[int, ...]] | None, blobs: Blobs
) -> ShrunkLayer:
    """A row that counts the weights of the kernel as it was."""
    if kernel is None:
        return row
    before = row.weights[0] // math.prod(kernel[1]) * math.prod(kernel[0])
    return replace(row, weights=(before, blobs[row.layer][0].size), kernel=kernel)


def _model(record: Record, weights: WeightsLike, inputs: Mapping[str, Shape] | None) -> Net:
    spec = load_net(record, "TEST")
    return Net(with_inputs(spec, inputs) if inputs else spec, weights=weights)


@torch.no_grad()
def largest_difference(one: Net, other: Net, seed: int = 0) -> float:
    """Largest difference of an output of two nets on random inputs, computed in float64.

    Inputs are standard normal; those that no gradient reaches (labels) are 0 or 1. Both nets are
    float64 afterwards.

    Returns:
        max|difference| / max(1e-3, max|value|), the worst over the outputs; infinite where only one
        net gives NaN or infinity.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = {
        value.blob for node, layer in zip(one.built.graph.nodes, one.built.layers, strict=True)
        for position, value in enumerate(node.inputs) if position in layer.no_gradient_bottoms
    }  # fmt: skip
    feed = {}
    for name, shape in one.inputs.items():
        values = torch.randn(shape, generator=generator).double()
        feed[name] = (values > 0).double() if name in labels else values
    first, second = one.double()(feed), other.double()(feed)
    worst = 0.0
    for name, value in first.items():
        worst = max(worst, difference(second[name].numpy(), value.numpy())[1])
    return worst


def write_net(
    net: Record, blobs: Blobs, prototxt: str | os.PathLike[str], weights: str | os.PathLike[str]
) -> tuple[Path, Path]:
    """Write a net of all phases and its weights (``.h5`` for HDF5)."""
    return write_text(net, prototxt), write_blobs(net, blobs, weights)


def write_blobs(net: Record, blobs: Blobs, path: str | os.PathLike[str]) -> Path:
    """Write weights by layer name; of layers with one name the first counts.

    Raises:
        SchemaError: the folder does not exist.
    """
    if not Path(path).absolute().parent.is_dir():
        raise SchemaError(f"{path}: its folder does not exist; make it first.")
    stored = net.copy()
    unique = {layer.name: layer for layer in reversed(net.layer)}
    stored.layer = [layer for layer in net.layer if unique[layer.name] is layer]
    return save_weights(path, stored, {name: list(arrays) for name, arrays in blobs.items()})
