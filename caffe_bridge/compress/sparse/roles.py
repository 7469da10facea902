"""How a layer passes channels on: what may be removed beside it, and which constants come out.

Channels are the entries of axis 1. A layer is one of

    filters   Convolution, Deconvolution, InnerProduct: makes new channels of all those it reads
    same      channel c of each top depends on channel c of each bottom alone
    join, cut Concat and Slice on axis 1
    spread    Flatten to (N, C S): channel c becomes the entries c S .. (c + 1) S - 1
    sink      reads and makes nothing (Silence)
    wall      anything else: its bottoms and tops keep all channels
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from caffe_bridge.graph import Node
from caffe_bridge.layers.batch_norm import BatchNorm
from caffe_bridge.layers.bias import Spread
from caffe_bridge.layers.concat import Concat
from caffe_bridge.layers.convolution import Convolution
from caffe_bridge.layers.deconvolution import Deconvolution
from caffe_bridge.layers.dropout import Dropout
from caffe_bridge.layers.flatten import Flatten
from caffe_bridge.layers.inner_product import InnerProduct
from caffe_bridge.layers.pooling import Pooling
from caffe_bridge.layers.reshape import Reshape
from caffe_bridge.layers.slice import Slice
from caffe_bridge.net import Net

FILTERS, SAME, JOIN, CUT, SPREAD, SINK, WALL = (
    "filters", "same", "join", "cut", "spread", "sink", "wall",
)  # fmt: skip
#: Types that work on each number (or each channel) by itself.
_ELEMENTWISE = {
    "ReLU", "PReLU", "ELU", "SELU", "Sigmoid", "TanH", "Swish", "BNLL", "Mish", "Clip",
    "Threshold", "ReLU6", "HSigmoid", "HSwish", "Power", "Exp", "Log", "AbsVal", "Sparsify",
    "SymmetricRectify", "Split", "Eltwise",
}  # fmt: skip


@dataclass(frozen=True)
class Bank:
    """The filters of a layer as (N, C / group, positions) in float64, with their bias (N,).

    ``exact`` tells that a constant channel adds the same number at every output position: there is
    no padding, and the layer is no Deconvolution.
    """

    weight: np.ndarray
    bias: np.ndarray | None
    group: int
    exact: bool

    @property
    def inputs(self) -> int:
        """C, channels read."""
        return int(self.weight.shape[1]) * self.group

    def of_group(self, index: int) -> tuple[slice, slice]:
        """Rows and input channels of a group."""
        n, c = len(self.weight) // self.group, int(self.weight.shape[1])
        return slice(index * n, (index + 1) * n), slice(index * c, (index + 1) * c)


@dataclass(frozen=True)
class Role:
    """What a layer is, with its filters, or the reason why it is a wall."""

    kind: str
    reason: str = ""
    bank: Bank | None = None


def _wall(node: Node, reason: str) -> Role:
    return Role(WALL, f"{node.layer.name} ({node.layer.type}) {reason}")


def _bank(layer: Convolution | InnerProduct, shape: tuple[int, ...]) -> Bank:
    weight = layer.blobs[0].detach().cpu().numpy().astype(np.float64)
    bias = (
        layer.blobs[1].detach().cpu().numpy().astype(np.float64) if len(layer.blobs) > 1 else None
    )
    if isinstance(layer, InnerProduct):
        matrix = weight.T if layer.p.transpose else weight
        return Bank(matrix.reshape(len(matrix), shape[1], -1), bias, 1, True)
    group = layer.group
    if isinstance(layer, Deconvolution):
        weight = swap_deconvolution(weight, group)
    exact = not isinstance(layer, Deconvolution) and not any(layer.geometry(shape).pad)
    return Bank(weight.reshape(*weight.shape[:2], -1), bias, group, exact)


def swap_deconvolution(weight: np.ndarray, group: int) -> np.ndarray:
    """(C, N / group, ...) of a Deconvolution as (N, C / group, ...), or back."""
    first, second, *kernel = weight.shape
    parts = weight.reshape(group, first // group, second, *kernel).swapaxes(1, 2)
    return np.ascontiguousarray(parts.reshape(group * second, first // group, *kernel))


def _filters(net: Net, node: Node, layer: Convolution | InnerProduct) -> Role:
    shape = net.built.shapes[node.inputs[0].index]
    if len(node.inputs) != 1 or len(node.outputs) != 1:
        return _wall(node, "has several bottoms that share its filters")
    if layer.axis(layer.p.axis, shape) != 1:
        return _wall(node, "does not read its channels from axis 1")
    if isinstance(layer, InnerProduct) and layer.p.normalize:
        return _wall(node, "normalizes its weights")
    if type(layer).type_name not in (
        "Convolution", "Deconvolution", "DepthwiseConvolution", "InnerProduct",
    ):  # fmt: skip
        return _wall(node, "is another kind of convolution")
    return Role(FILTERS, bank=_bank(layer, shape))


def _same(net: Net, node: Node) -> Role:
    layer = net.built.layers[node.index]
    shape = net.built.shapes[node.inputs[0].index]
    if isinstance(layer, Spread):
        if len(node.inputs) > 1:
            return _wall(node, "has a second bottom")
        axis, covered = layer.covered([shape])
        if covered and (axis, covered) != (1, (shape[1],)):
            return _wall(node, "has other values than one for each channel")
    if any(blob.numel() != 1 and tuple(blob.shape) != (shape[1],) for blob in layer.blobs):
        return _wall(node, "has other blobs than one number for each channel")
    if isinstance(layer, BatchNorm) and not layer.use_global_stats:
        return _wall(node, "uses the statistics of the batch")
    if isinstance(layer, Dropout) and layer.p.sample_weights_test:
        return _wall(node, "drops values by chance")
    if isinstance(layer, Pooling) and len(node.outputs) > 1:
        return _wall(node, "gives out its mask")
    return Role(SAME)


def role_of(net: Net, node: Node) -> Role:
    """The role of a node of a TEST net."""
    layer = net.built.layers[node.index]
    shapes = [net.built.shapes[v.index] for v in (*node.inputs, *node.outputs)]
    if not node.inputs:
        return Role(WALL, f"{node.layer.name} ({node.layer.type}) is an input")
    if not node.outputs:
        kind = type(layer).type_name
        return Role(SINK) if kind == "Silence" else _wall(node, "needs all channels")
    if any(len(shape) < 2 for shape in shapes):
        return _wall(node, "works on a blob without channels")
    if isinstance(layer, Convolution | InnerProduct):
        return _filters(net, node, layer)
    if isinstance(layer, Spread | BatchNorm | Dropout | Pooling):
        return _same(net, node)
    if type(layer).type_name in _ELEMENTWISE:
        return _same(net, node)
    if isinstance(layer, Concat) and layer.axis_of(shapes[0]) == 1:
        return Role(JOIN)
    if isinstance(layer, Slice) and layer.axis_of(shapes[0]) == 1:
        return Role(CUT)
    flat = (shapes[0][0], math.prod(shapes[0][1:]))
    if isinstance(layer, Flatten) and shapes[-1] == flat and len(shapes[0]) > 1:
        return Role(SPREAD)
    if isinstance(layer, Reshape) and shapes[-1] == flat and list(layer.p.shape.dim) == [0, -1]:
        return Role(SPREAD)
    return _wall(node, "does not treat channels one by one")


def _filter_constants(bank: Bank, found: np.ndarray) -> np.ndarray:
    """Bias + sum_c k_c sum w of filters that see only constant channels, NaN for others."""
    made = np.full(len(bank.weight), np.nan)
    for index in range(bank.group):
        rows, columns = bank.of_group(index)
        known = found[columns]
        sums = bank.weight[rows].sum(2)
        uses = (bank.weight[rows] != 0).any(2)
        harmless = known == 0 if not bank.exact else ~np.isnan(known)
        constant = ~(uses & ~harmless).any(1)
        values = sums @ np.where(np.isnan(known), 0.0, known)
        if bank.bias is not None:
            values = values + bank.bias[rows]
        made[rows] = np.where(constant, values, np.nan)
    return made


def _pooled(layer: Pooling, found: np.ndarray) -> np.ndarray:
    if layer.p.pool == "STOCHASTIC":
        return np.full_like(found, np.nan)
    if layer.p.pool == "AVE" and any(layer.pad):
        return np.where(found == 0, 0.0, np.nan)
    return found


@torch.no_grad()
def _same_constants(net: Net, node: Node, found: list[np.ndarray]) -> list[np.ndarray]:
    layer = net.built.layers[node.index]
    if isinstance(layer, Pooling):
        return [_pooled(layer, found[0])]
    unknown = np.isnan(found).any(0)
    axes = len(net.built.shapes[node.inputs[0].index]) - 2
    bottoms = [
        torch.from_numpy(np.nan_to_num(f)).reshape(1, -1, *(1,) * axes).float() for f in found
    ]
    made = [top.double().reshape(-1).numpy() for top in layer.run(bottoms)]
    if layer.spec.type == "Eltwise" and layer.p.operation == "PROD":
        zero = (np.stack(found) == 0).any(0)
        return [np.where(zero, 0.0, np.where(unknown, np.nan, m)) for m in made]
    return [np.where(unknown, np.nan, m) for m in made]


def constants_of(net: Net, roles: list[Role]) -> list[np.ndarray]:
    """For each value of a TEST net the number that a channel always holds, NaN where it varies.

    Returns:
        An array (C,) for each value; empty for values without channels.
    """
    shapes = net.built.shapes
    found = [np.full(s[1] if len(s) > 1 else 0, np.nan) for s in shapes]
    for node, role in zip(net.built.graph.nodes, roles, strict=True):
        bottoms = [found[v.index] for v in node.inputs]
        if role.kind == FILTERS and role.bank is not None:
            made = [_filter_constants(role.bank, bottoms[0])]
        elif role.kind == SAME:
            made = _same_constants(net, node, bottoms)
        elif role.kind == JOIN:
            made = [np.concatenate(bottoms)]
        elif role.kind == CUT:
            sizes = [shapes[v.index][1] for v in node.outputs]
            made = np.split(bottoms[0], np.cumsum(sizes)[:-1])
        elif role.kind == SPREAD:
            count = shapes[node.outputs[0].index][1] // len(bottoms[0])
            made = [np.repeat(bottoms[0], count)]
        else:
            continue
        for value, numbers in zip(node.outputs, made, strict=True):
            found[value.index] = np.where(np.isfinite(numbers), numbers, np.nan)
    return found
