"""BatchNorm: folded into the layer before it, or its statistics measured anew.

Caffe stores sums: with blobs s_0, s_1 and s_2 the mean is m = s_0 / s_2 and the variance
v = s_1 / s_2 (both 0 where s_2 is 0); a Scale layer supplies gamma and beta. After a layer W x + b

    gamma (W x + b - m) / sqrt(v + eps) + beta  =  W' x + b',
    W' = W gamma / sqrt(v + eps),   b' = (b - m) gamma / sqrt(v + eps) + beta.

NVCaffe's and Intel's BatchNorm bring gamma and beta of their own, in front of those of a Scale;
one with Intel's ``relu`` stays. Of a decomposed layer only the last link precedes the BatchNorm, so
only that one changes.

Recalibration takes the BatchNorm layers front to back: each gets the mean and variance of its input
over all batches, with the new statistics of those before it already in force. That is the
population that the net sees when it is used (Caffe and Intel keep the variance over count - 1,
NVCaffe that over count); averages of batch statistics (as in Wu and Johnson,
"Rethinking batch in BatchNorm", 2021) come near it in one pass instead of one for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from caffe_bridge.compress.calibration import Feed
from caffe_bridge.compress.plan import Plan
from caffe_bridge.compress.rewrite import Blobs, rewrite
from caffe_bridge.compress.target import NetLike, WeightsLike, as_record, as_weights
from caffe_bridge.errors import PlanError
from caffe_bridge.graph import Node, load_net, net_record
from caffe_bridge.layers.batch_norm import BatchNorm
from caffe_bridge.net import Net
from caffe_bridge.schema import Record

_FOLDABLE = ("Convolution", "Deconvolution", "InnerProduct")


@dataclass
class Folded:
    """The TEST net without the folded layers, its blobs, what was folded, and what was not."""

    net: Record
    blobs: Blobs
    folded: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def _param(layer: Record) -> Record:
    fc = layer.type == "InnerProduct"
    found: Record = layer.mutable("inner_product_param" if fc else "convolution_param")
    return found


def _sole_reader(net: Net, value: int) -> Node | None:
    readers = [n for n in net.built.graph.nodes if any(v.index == value for v in n.inputs)]
    return readers[0] if len(readers) == 1 else None


def _scale_after(net: Net, node: Node) -> Node | None:
    """The Scale layer that alone reads a node and works on its channels."""
    reader = _sole_reader(net, node.outputs[0].index)
    if reader is None or reader.layer.type != "Scale" or len(reader.inputs) != 1:
        return None
    param = reader.layer.record.scale_param
    return reader if param.axis == 1 and param.num_axes == 1 else None


def _without_values(net: Net, nodes: Sequence[Node | None], source: str) -> str:
    """The reason where the weights lack one of the layers; empty if they have all."""
    for node in nodes:
        if node is not None and node.layer.name in net.missing:
            own = node.layer.type == "BatchNorm"
            what = "no statistics for it" if own else f"no values for {node.layer.name}"
            return f"{source} holds {what}"
    return ""


def _refusal(net: Net, node: Node, producer: Node | None) -> str:
    layer = net.layer(node.layer.name)
    if layer.p.relu:
        return "it rectifies its answer (relu: true)"
    if not layer.use_global_stats:
        return "it uses the statistics of the batch"
    if producer is None or producer.layer.type not in _FOLDABLE:
        what = "an input" if producer is None else f"{producer.layer.name} ({producer.layer.type})"
        return f"it follows {what}, which has no weight to fold into"
    if len(producer.outputs) != 1:
        return f"{producer.layer.name} has several tops"
    if _sole_reader(net, node.inputs[0].index) is not node:
        return f"other layers read the answer of {producer.layer.name} too"
    if any(spec.name for spec in producer.layer.record.param):
        return f"{producer.layer.name} shares its weight"
    shape = net.built.shapes[node.inputs[0].index]
    param = _param(producer.layer.record)
    axis = param.axis + len(shape) if param.axis < 0 else param.axis
    if axis != 1 or (producer.layer.type == "InnerProduct" and len(shape) != 2):
        return f"its channels are not the filters of {producer.layer.name}"
    return ""


def _scaled(record: Record, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The weight of a layer whose outputs are multiplied channel by channel."""
    if record.type == "Deconvolution":
        # Its first axis counts the bottom's channels: group by group, then the filters.
        runs = weight.reshape(record.convolution_param.group, -1, *weight.shape[1:])
        across = factor.reshape(len(runs), 1, -1, *(1,) * (weight.ndim - 2))
        return (runs * across).reshape(weight.shape).astype(weight.dtype)
    if record.type == "InnerProduct" and record.inner_product_param.transpose:
        return (weight * factor).astype(weight.dtype)
    return (weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))).astype(weight.dtype)


def _fold(net: Net, node: Node, producer: Node, scale: Node | None, made: Folded) -> None:
    layer = net.layer(node.layer.name)
    mean, variance = (v.double().numpy() for v in layer.statistics())
    factor = 1.0 / np.sqrt(variance + layer.eps)
    shift = np.zeros_like(mean)
    own = [blob.detach().double().numpy() for blob in layer.blobs[3:]]
    if layer.scaled:
        factor = factor * own[0]
    if layer.biased:
        shift = own[1]
    if scale is not None:
        gamma, *beta = made.blobs.pop(scale.layer.name)
        factor, shift = factor * gamma.reshape(-1), shift * gamma.reshape(-1)
        shift = shift + beta[0].reshape(-1) if beta else shift
    made.blobs.pop(node.layer.name)
    weight, *rest = made.blobs[producer.layer.name]
    bias = rest[0].reshape(-1).astype(np.float64) if rest else np.zeros_like(mean)
    record = next(x for x in made.net.layer if x.name == producer.layer.name)
    param = _param(record)
    bias = (bias - mean) * factor + shift
    made.blobs[producer.layer.name] = [_scaled(record, weight, factor), bias.astype(weight.dtype)]
    param.clear("bias_term")
    last = scale or node
    record.top = [last.outputs[0].blob]
    gone = {node.layer.name} | ({scale.layer.name} if scale else set())
    made.net.layer = [x for x in made.net.layer if x.name not in gone]
    made.folded.append(node.layer.name)


def fold_batch_norm(net: NetLike, weights: WeightsLike) -> Folded:
    """Fold every BatchNorm (with the Scale after it) into the layer with a weight before it.

    Args:
        net: path, record or spec; the result is its TEST net.
        weights: trained weights.

    Raises:
        BridgeError: the net cannot be built, or the weights do not belong to it.
    """
    stored = as_weights(weights)
    spec = load_net(as_record(net), "TEST")
    built = Net(spec, weights=stored)
    record, blobs = rewrite(net_record(spec), stored, Plan([]))
    made = Folded(record, blobs)
    makers = {v.index: n for n in built.built.graph.nodes for v in n.outputs}
    for node in built.built.graph.nodes:
        if node.layer.type != "BatchNorm":
            continue
        producer = makers.get(node.inputs[0].index)
        scale = _scale_after(built, node)
        reason = _without_values(built, (node, producer, scale), stored.source)
        reason = reason or _refusal(built, node, producer)
        if reason or producer is None:
            made.kept[node.layer.name] = reason
            continue
        _fold(built, node, producer, scale, made)
    return made


@torch.no_grad()
def recalibrate(net: Net, feeds: Sequence[Feed]) -> list[str]:
    """Give the BatchNorm layers of a TEST net the statistics of these batches.

    Args:
        net: its BatchNorm layers are changed; save it to keep them.
        feeds: batches, gone through once for each layer.

    Returns:
        Names of the layers with new statistics.

    Raises:
        PlanError: there is no batch.
    """
    if not feeds:
        raise PlanError("recalibration wants at least one batch of inputs.")
    done = []
    for node, layer in zip(net.built.graph.nodes, net.built.layers, strict=True):
        if not isinstance(layer, BatchNorm) or not layer.use_global_stats:
            continue
        count = 0
        first = torch.zeros_like(layer.blobs[0], dtype=torch.float64)
        second = torch.zeros_like(first)
        for feed in feeds:
            value = net.run(feed)[node.inputs[0].index].double()
            rows = value.movedim(1, 0).reshape(value.shape[1], -1)
            # Chan's update: no difference of two large sums.
            mean = rows.mean(dim=1)
            new, gap = rows.shape[1], mean - first
            whole = count + new
            second += ((rows - mean[:, None]) ** 2).sum(dim=1) + gap**2 * (count * new / whole)
            first += gap * (new / whole)
            count = whole
        variance = second / (count if layer.means else max(count - 1, 1))
        for blob, found in zip(layer.blobs[:3], (first, variance, 1.0), strict=True):
            blob.copy_(torch.as_tensor(found).to(blob.dtype))
        done.append(layer.name)
    return done
