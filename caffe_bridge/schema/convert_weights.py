"""Weights from one file format to the other: .caffemodel and .caffemodel.h5."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema.record import Record
from caffe_bridge.schema.text import read_text
from caffe_bridge.schema.upgrade import upgrade_net
from caffe_bridge.schema.weights import Weights, load_weights, save_weights


def _shared(net: Record) -> dict[tuple[str, int], tuple[str, int]]:
    """For each shared blob (layer, index) the one that owns its values, by ParamSpec names."""
    owners: dict[str, tuple[str, int]] = {}
    found = {}
    for layer in net.layer:
        for index, param in enumerate(layer.param):
            if param.name:
                owner = owners.setdefault(param.name, (layer.name, index))
                found[(layer.name, index)] = owner
    return found


def _arrays(
    weights: Weights, shared: dict[tuple[str, int], tuple[str, int]], keep: bool
) -> dict[str, list[np.ndarray | None]]:
    """Arrays by layer; shared ones given to all users if ``keep``, else to their owner only."""
    made: dict[str, list[np.ndarray | None]] = {}
    for name, blobs in weights.blobs.items():
        count = max([len(blobs), *(i + 1 for n, i in shared if n == name and weights.partial)])
        padded = [*blobs, *[None] * (count - len(blobs))]
        made[name] = []
        for index, blob in enumerate(padded):
            owner = shared.get((name, index), (name, index))
            if owner != (name, index) and not keep:
                made[name].append(None)
                continue
            if blob is None:
                others = weights.blobs.get(owner[0], [])
                blob = others[owner[1]] if owner[1] < len(others) else None
            if blob is None:
                raise SchemaError(
                    f"{weights.source}: stores no blob {index} for layer '{name}' (another layer "
                    "owns it); give the net's prototxt, which says which."
                )
            kind = weights.types.get(owner[0], "")
            made[name].append(blob.array().reshape(blob.current_shape(kind, owner[1])))
    return made


def convert_weights(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    net: str | os.PathLike[str] | None = None,
) -> Path:
    """Write weights in the format that the target's name says (HDF5 when it ends in ``.h5``).

    Layer names with ``/`` are kept. HDF5 files have neither layer types nor an order of layers;
    they come from ``net``, or from the names alone without it.

    Args:
        source: caffemodel of any age, or HDF5 weights.
        target: file to write.
        net: prototxt that tells types, order and which blobs are shared.

    Raises:
        SchemaError: files cannot be read, or a shared blob's owner is not known.
    """
    weights = load_weights(source)
    record = Record("NetParameter")
    if net is not None:
        given = upgrade_net(read_text(net, "NetParameter"))
        if given.has("name"):
            record.name = given.name
        listed = [layer for layer in given.layer if layer.name in weights.blobs]
        # Data, loss and Split layers, which a training net wrote without blobs, may be missing.
        stored = {name for name, blobs in weights.blobs.items() if blobs}
        lacking = stored - {layer.name for layer in listed}
        if lacking:
            raise SchemaError(
                f"{net}: has no layer {', '.join(sorted(map(repr, lacking)))} of {source}; give "
                "the prototxt that belongs to these weights."
            )
        seen: set[str] = set()
        record.layer = [x for x in listed if not (x.name in seen or seen.add(x.name))]  # type: ignore[func-returns-value]
    else:
        for name in weights.blobs:
            layer = record.add("layer", name=name)
            if weights.types.get(name):
                layer.type = weights.types[name]
    hdf5 = os.fspath(target).endswith(".h5")
    return save_weights(target, record, _arrays(weights, _shared(record), keep=not hdf5))
