"""Copying stored weights into a net, and the net's weights into files (Caffe's copy rules)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from caffe_bridge.errors import WeightError
from caffe_bridge.graph import net_record
from caffe_bridge.net.build import Built, use_blob, whole_blob
from caffe_bridge.schema import StoredBlob, Weights, load_weights, save_weights


def _copy(blob: StoredBlob, target: nn.Parameter) -> None:
    data = target.detach()
    if data.device.type == "cpu" and data.is_contiguous():
        blob.read_into(data.numpy())
    else:
        data.copy_(torch.from_numpy(np.array(blob.array()).reshape(tuple(data.shape))))


def copy_weights(built: Built, weights: Weights | str | os.PathLike[str]) -> list[str]:
    """Copy weights by layer name; layers that the file lacks keep theirs.

    Caffe source: Net::CopyTrainedLayersFrom. An unknown layer of the file is ignored; the number
    of blobs must match; shapes must be equal, where old four-number shapes count from the end.

    Returns:
        Names of the net's layers with learnable blobs for which the file has none.

    Raises:
        WeightError: wrong number or shape of blobs; names layer, index and both shapes.
        SchemaError: the file cannot be read.
    """
    return _copy_all(built, weights)[0]


def load_or_fill(
    built: Built,
    weights: Weights | str | os.PathLike[str],
    generator: torch.Generator | None = None,
) -> list[str]:
    """As :func:`copy_weights` for a net whose fillers have not run: they fill what is not copied.

    Raises:
        WeightError: see :func:`copy_weights`.
        SchemaError: the file cannot be read.
    """
    missing, copied = _copy_all(built, weights)
    for number, slot in enumerate(built.slots):
        layer = built.layers[slot.layer]
        value = layer.blobs[slot.index]
        if slot.owner == number and id(value) not in copied:
            bottoms = [built.shapes[v.index] for v in built.graph.nodes[slot.layer].inputs]
            layer.fill_blob(layer.blob_specs(bottoms)[slot.index], value, generator)
    return missing


def _copy_all(
    built: Built, weights: Weights | str | os.PathLike[str]
) -> tuple[list[str], set[int]]:
    """Copy; returns the layers without stored blobs and the ids of the parameters written."""
    found = weights if isinstance(weights, Weights) else load_weights(weights)
    missing = []
    copied: set[int] = set()
    done: set[str] = set()
    owned = {(s.layer, s.index) for number, s in enumerate(built.slots) if s.owner == number}
    for position, layer in enumerate(built.layers):
        if not len(layer.blobs):
            continue
        if layer.name not in found.blobs:
            missing.append(layer.name)
            continue
        if layer.name in done:
            continue
        done.add(layer.name)
        stored = list(found.blobs[layer.name])
        if found.partial:
            stored += [None] * (len(layer.blobs) - len(stored))
        stored = layer.adapt_blobs(stored)
        if len(stored) != len(layer.blobs):
            raise WeightError(
                f"{layer.spec.label()}: {found.source} stores {len(stored)} blobs for it, the net "
                f"has {len(layer.blobs)}; use the prototxt that belongs to these weights."
            )
        for index, (blob, target) in enumerate(zip(stored, layer.blobs, strict=True)):
            if blob is None:
                if found.partial and (position, index) in owned:
                    raise WeightError(
                        f"{layer.spec.label()}: {found.source} stores no blob {index} for it; use "
                        "the prototxt that belongs to these weights."
                    )
                continue
            shape = tuple(target.shape)
            if not blob.fits(shape):
                raise WeightError(
                    f"{layer.spec.label()}: blob {index} of {found.source} has shape {blob.shape}, "
                    f"the net wants {shape}; use the matching prototxt, or rename the layer to "
                    "train it from its filler."
                )
            if blob.count != target.numel():
                raise WeightError(
                    f"{layer.spec.label()}: blob {index} of {found.source} has shape {blob.shape} "
                    f"but holds {blob.count} values; the file carries no weights for it."
                )
            _copy(blob, target)
            copied.add(id(target))
    return missing, copied


def share_weights(built: Built, owner: Built) -> None:
    """Let a net use another's learnable blobs for layers of the same name (test nets).

    Caffe source: Net::ShareTrainedLayersWith.

    Raises:
        WeightError: a layer of the same name has other blobs.
    """
    by_name = {layer.name: layer for layer in reversed(owner.layers)}
    for layer in built.layers:
        source = by_name.get(layer.name)
        if source is None or not len(layer.blobs):
            continue
        mine = [tuple(blob.shape) for blob in layer.blobs]
        theirs = [tuple(blob.shape) for blob in source.blobs]
        if mine != theirs:
            raise WeightError(
                f"{layer.spec.label()}: has blobs {mine} in the test net but {theirs} in the "
                "training net; rename one of the two layers."
            )
        for index in range(len(source.blobs)):
            use_blob(layer, index, whole_blob(source.blobs, index))
    for entry in built.learnable:
        if entry.layer in by_name:
            entry.value = by_name[entry.layer].blobs[entry.index]


def stored_arrays(
    built: Built, shared: bool = True, instead: Mapping[int, Tensor] | None = None
) -> dict[str, list[np.ndarray | None]]:
    """All learnable blobs by layer name; ``None`` for blobs owned elsewhere if not ``shared``.

    Of layers with one name the first that has blobs counts, as when weights are copied.

    Args:
        built: the net.
        shared: whether shared blobs stand at every layer that uses them.
        instead: tensors by the id of the parameter in whose place they stand.
    """
    result: dict[str, list[np.ndarray | None]] = {}
    first: dict[str, int] = {}
    for number, slot in enumerate(built.slots):
        layer = built.layers[slot.layer]
        if first.setdefault(layer.name, slot.layer) != slot.layer:
            continue
        blobs = result.setdefault(layer.name, [])
        own = slot.owner == number
        owner = built.slots[slot.owner]
        blob = built.layers[owner.layer].blobs[owner.index]
        value = (blob if instead is None else instead[id(blob)]).detach().cpu().numpy()
        shape = tuple(layer.blobs[slot.index].shape)
        blobs.append(value.reshape(shape) if own or shared else None)
    return result


def save(built: Built, path: str | os.PathLike[str], diffs: Sequence[Tensor] = ()) -> Path:
    """Write the net's weights: ``.caffemodel``, or HDF5 when the name ends in ``.h5``.

    Args:
        built: the net.
        path: the file.
        diffs: one tensor for each learnable blob, stored as its ``diff``; nothing by default.
    """
    hdf5 = os.fspath(path).endswith(".h5")
    beside: dict[str, list[np.ndarray | None]] = {}
    if diffs:
        pairs = zip(built.learnable, diffs, strict=True)
        beside = stored_arrays(built, instead={id(blob.value): diff for blob, diff in pairs})
    arrays = stored_arrays(built, shared=not hdf5)
    return save_weights(path, net_record(built.spec), arrays, beside)
