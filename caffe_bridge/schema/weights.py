"""Trained weights by layer name, whatever file they stand in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from caffe_bridge.errors import SchemaError
from caffe_bridge.files import require_file
from caffe_bridge.schema import hdf5
from caffe_bridge.schema.binary import is_hdf5, read_binary, write_binary
from caffe_bridge.schema.blob import StoredBlob, make_blob, stored_blob
from caffe_bridge.schema.record import Record
from caffe_bridge.schema.upgrade import upgrade_net


@dataclass
class Weights:
    """Stored blobs by layer name (of layers with one name, the first that has blobs).

    A blob is ``None`` when an HDF5 file stores it at another layer (shared parameters);
    ``partial`` tells that such blobs may also be left out at the end of a layer's list.
    ``types`` holds the layer types where the file tells them.
    """

    source: str
    blobs: dict[str, list[StoredBlob | None]]
    types: dict[str, str] = field(default_factory=dict)
    partial: bool = False


def load_weights(path: str | os.PathLike[str]) -> Weights:
    """Read a caffemodel of any age, or a .caffemodel.h5, told apart by content.

    Binary weights are not copied: they stay in the memory-mapped file until used.

    Raises:
        SchemaError: the file is missing, truncated, or something else.
    """
    if is_hdf5(require_file(path, "caffemodel")):
        return Weights(str(path), hdf5.read_weights(path), partial=True)
    net = upgrade_net(read_binary(path, "NetParameter"))
    if not net.layer:
        raise SchemaError(f"{path}: has no layers; it is not a caffemodel. Is it a mean image?")
    result = Weights(str(path), {})
    for layer in net.layer:
        if result.blobs.get(layer.name):
            continue
        result.types[layer.name] = layer.type
        blobs: list[StoredBlob | None] = []
        for index, blob in enumerate(layer.blobs):
            blob.origin = f"{path}: layer '{layer.name}', blob {index}"
            blobs.append(stored_blob(blob))
        result.blobs[layer.name] = blobs
    return result


def save_weights(
    path: str | os.PathLike[str],
    net: Record,
    blobs: dict[str, list[np.ndarray | None]],
    diffs: Mapping[str, list[np.ndarray | None]] | None = None,
) -> Path:
    """Write a caffemodel (or .caffemodel.h5 when the name ends in ``.h5``), whole or not at all.

    Args:
        path: target file.
        net: the NetParameter whose layers are stored beside their blobs, in order.
        blobs: arrays by layer name; ``None`` marks a shared blob stored at its owner (HDF5 only).
        diffs: arrays to store as the blobs' ``diff``, in the same form.
    """
    beside = diffs or {}
    if os.fspath(path).endswith(".h5"):
        layers = [(layer.name, blobs.get(layer.name, [])) for layer in net.layer]
        stored_diffs = [(layer.name, beside.get(layer.name, [])) for layer in net.layer]
        return hdf5.write_weights(path, layers, stored_diffs if beside else ())
    stored = Record("NetParameter")
    if net.has("name"):
        stored.name = net.name
    for layer in net.layer:
        copy = layer.copy()
        copy.blobs = [make_blob(b) for b in blobs.get(layer.name, []) if b is not None]
        for blob, values in zip(copy.blobs, beside.get(layer.name, []), strict=False):
            if values is not None:
                blob.diff = values.reshape(-1)
        stored.append("layer", copy)
    return write_binary(stored, path)
