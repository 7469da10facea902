"""The layers of a net that can be decomposed, with their weights as matrices.

A convolution's weight (N, C / group, *kernel) and a fully connected layer's (N, K) are both seen as
a matrix whose N rows are the filters. Layers that share a name (one for each phase, say) share
their weights as well and are one target.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_bridge.errors import WeightError
from caffe_bridge.graph import NetSpec, read_net
from caffe_bridge.schema import Record, StoredBlob, Weights, load_weights, upgrade_net

NetLike = Record | NetSpec | str | os.PathLike[str]
WeightsLike = Weights | str | os.PathLike[str]
_PARAM = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param"}


@dataclass(frozen=True)
class WindowSizes:
    """Kernel, stride, pad and dilation of a convolution, one for each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """A layer that can be decomposed.

    ``weight`` is the matrix [N, K]; ``shape`` is the shape of one filter, (C / group, *kernel), or
    (K,) for InnerProduct; ``bias`` is (N,) or None; ``record`` is the first layer of the name.
    """

    record: Record
    weight: np.ndarray
    shape: tuple[int, ...]
    group: int
    bias: np.ndarray | None

    @property
    def name(self) -> str:
        """The layer's name."""
        return str(self.record.name)

    @property
    def type(self) -> str:
        """The layer's type."""
        return str(self.record.type)

    @property
    def is_fc(self) -> bool:
        """Whether it is a fully connected layer."""
        return self.type == "InnerProduct"

    @property
    def num_output(self) -> int:
        """N, the number of filters."""
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        """K, the number of weights of one filter."""
        return int(self.weight.shape[1])

    @property
    def blob(self) -> np.ndarray:
        """The weight as (N, *shape)."""
        return self.weight.reshape(self.num_output, *self.shape)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel sizes; empty for a fully connected layer."""
        return () if self.is_fc else self.shape[1:]

    @property
    def channels(self) -> int:
        """C, input channels over all groups; K for a fully connected layer."""
        return self.group * self.shape[0]

    @property
    def depthwise(self) -> bool:
        """Whether it has groups of one input channel."""
        return not self.is_fc and self.group > 1 and self.shape[0] == 1

    @property
    def window(self) -> WindowSizes:
        """Kernel, stride, pad and dilation of a convolution."""
        return window_of(self.record, len(self.kernel))

    @property
    def label(self) -> str:
        """How messages name the layer."""
        return label(self.record)


def label(layer: Record) -> str:
    """``conv2 (Convolution) at train.prototxt:118``."""
    where = layer.where()
    return f"{layer.name or '(unnamed)'} ({layer.type}){f' at {where}' if where else ''}"


def layer_param(layer: Record) -> Record:
    """The convolution_param or inner_product_param of a layer."""
    found: Record = layer.mutable(_PARAM[layer.type])
    return found


def window_of(layer: Record, axes: int) -> WindowSizes:
    """The window of a convolution with that many spatial axes."""
    param = layer_param(layer)

    def sizes(name: str, short: str, default: int) -> tuple[int, ...]:
        if short and (param.has(f"{short}_h") or param.has(f"{short}_w")):
            return tuple(int(getattr(param, f"{short}_{axis}")) for axis in "hw")
        many: list[Any] = list(getattr(param, name)) or [default]
        return tuple(int(v) for v in (many * axes if len(many) == 1 else many))

    return WindowSizes(
        sizes("kernel_size", "kernel", 1),
        sizes("stride", "stride", 1),
        sizes("pad", "pad", 0),
        sizes("dilation", "", 1),
    )


def as_record(net: NetLike) -> Record:
    """The unfiltered, current-format NetParameter of a path, a record or a spec.

    Raises:
        SchemaError: the file cannot be read.
    """
    if isinstance(net, NetSpec):
        return net.record
    if isinstance(net, Record):
        return upgrade_net(net.copy()) if net.has("layers") or net.has("input") else net
    return read_net(net)


def as_weights(weights: WeightsLike) -> Weights:
    """The weights of a path, or the weights themselves.

    Raises:
        SchemaError: the file cannot be read.
    """
    return weights if isinstance(weights, Weights) else load_weights(weights)


def stored_array(blob: StoredBlob, kind: str, index: int, where: str) -> np.ndarray:
    """The values of a stored blob in the shape that today's layers give it.

    Old files pad every shape to four numbers with leading ones; the padding goes.

    Args:
        blob: the stored blob.
        kind: the type of its layer.
        index: which of the layer's blobs it is.
        where: layer and file, for messages.

    Raises:
        WeightError: the file holds a shape without values.
    """
    if blob.count != math.prod(blob.shape):
        raise WeightError(
            f"{where}: blob {index} has shape {blob.shape} but holds {blob.count} values; "
            "the file carries no weights for it."
        )
    return blob.array().reshape(blob.current_shape(kind, index))


def _weight_users(net: Record) -> dict[str, set[str]]:
    users: dict[str, set[str]] = {}
    for layer in net.layer:
        for spec in layer.param:
            if spec.name:
                users.setdefault(spec.name, set()).add(layer.name)
    return users


def bias_sharers(net: Record, name: str) -> list[str]:
    """Other layers that share the bias of a layer, by name."""
    layer = next(layer for layer in net.layer if layer.name == name)
    shared = layer.param[1].name if len(layer.param) > 1 else ""
    return sorted(_weight_users(net).get(shared, set()) - {name})


def _refusal(layers: list[Record], users: dict[str, set[str]]) -> str:
    """Why a layer's definition forbids to decompose it; empty if nothing does."""
    layer = layers[0]
    if layer.type not in _PARAM:
        return f"type {layer.type} has no decomposition; only Convolution and InnerProduct do"
    if any(other.type != layer.type for other in layers) or any(
        getattr(other, _PARAM[layer.type]) != getattr(layer, _PARAM[layer.type]) for other in layers
    ):
        return f"the net has {len(layers)} layers of this name with different parameters"
    if any(set(other.bottom) & set(other.top) for other in layers):
        return "it works in place, so that no blob can stand between two layers"
    shared = layer.param[0].name if layer.param else ""
    others = sorted(users.get(shared, set()) - {layer.name})
    if others:
        return f"its weight '{shared}' is shared with {', '.join(others)}"
    if layer.type == "InnerProduct" and layer.inner_product_param.normalize:
        return "it normalizes its weights (normalize: true), which two layers cannot do"
    return ""


def _matrix(layer: Record, stored: list[StoredBlob | None], source: str) -> Target | str:
    param = getattr(layer, _PARAM[layer.type])
    where = f"{label(layer)} in {source}"
    wanted = 2 if param.bias_term else 1
    if len(stored) != wanted:
        raise WeightError(
            f"{label(layer)}: {source} stores {len(stored)} blobs for it, the net has {wanted}; "
            "use the prototxt that belongs to these weights."
        )
    if stored[0] is None:
        return "the weights file stores its weight at another layer (shared)"
    weight = stored_array(stored[0], layer.type, 0, where)
    if layer.type == "InnerProduct" and param.transpose:
        weight = weight.T
    outputs = int(param.num_output)
    group = int(param.group) if layer.type == "Convolution" else 1
    if weight.ndim < 2 or weight.shape[0] != outputs or group < 1 or outputs % group:
        raise WeightError(
            f"{label(layer)}: {source} stores a weight of shape {stored[0].shape}, which does not "
            f"fit num_output {outputs} and group {group}; use the prototxt of these weights."
        )
    bias = stored[1] if wanted == 2 else None
    if wanted == 2 and bias is None:
        return "the weights file stores its bias at another layer (shared)"
    return Target(
        record=layer,
        weight=weight.reshape(outputs, -1),
        shape=tuple(weight.shape[1:]),
        group=group,
        bias=None if bias is None else stored_array(bias, layer.type, 1, where).reshape(-1),
    )


def _has_matrix(stored: list[StoredBlob | None]) -> bool:
    first = stored[0] if stored else None
    return first is not None and sum(size > 1 for size in first.shape) > 1


def require_finite(target: Target, source: str) -> None:
    """Refuse weights that no decomposition can approximate.

    Raises:
        WeightError: an infinite or undefined value.
    """
    if not np.isfinite(target.weight).all():
        raise WeightError(
            f"{target.label}: its weight in {source} holds infinite or undefined values; train it "
            "again or leave it whole."
        )


def find_targets(net: Record, weights: Weights) -> dict[str, Target | str]:
    """Layers with a weight matrix in prototxt order: a target, or why there is none.

    Args:
        net: unfiltered NetParameter in the current format.
        weights: trained weights.

    Raises:
        WeightError: stored blobs do not fit the net.
    """
    by_name: dict[str, list[Record]] = {}
    for layer in net.layer:
        by_name.setdefault(layer.name, []).append(layer)
    users = _weight_users(net)
    found: dict[str, Target | str] = {}
    for name, layers in by_name.items():
        stored = weights.blobs.get(name, [])
        weighted = [layer for layer in layers if layer.type in _PARAM]
        if not weighted and not _has_matrix(stored):
            continue
        reason = _refusal(layers, users)
        if not reason and not stored:
            reason = f"{weights.source} holds no weights for it"
        found[name] = reason or _matrix(layers[0], stored, weights.source)
    return found
