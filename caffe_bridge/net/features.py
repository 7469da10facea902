"""Blobs of many batches as data bases, as Caffe's ``extract_features`` writes them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack

import numpy as np

from caffe_bridge.data import write_records
from caffe_bridge.errors import BlobError, BridgeError
from caffe_bridge.net.net import Net
from caffe_bridge.schema import Record, encode

_FLOAT_TAG = 6 << 3 | 5


def feature_datum(values: np.ndarray) -> bytes:
    """The Datum of one item: sizes of its last three axes and its values as floats.

    Args:
        values: one item of a blob, up to three axes.
    """
    channels, height, width = (*values.shape, 1, 1, 1)[:3]
    head = encode(Record("Datum", channels=channels, height=height, width=width))
    body = np.empty(values.size, np.dtype([("tag", "u1"), ("value", "<f4")]))
    body["tag"], body["value"] = _FLOAT_TAG, values.reshape(-1)
    return head + body.tobytes()


class _Collector:
    """Items of one blob, handed to the writer of a data base batch by batch."""

    def __init__(self, blob: str) -> None:
        self.blob = blob
        self.batches: list[np.ndarray] = []

    def take(self, net: Net) -> None:
        """Keep the blob's values of the last pass.

        Raises:
            BlobError: no such blob, or one that has no items.
        """
        if self.blob not in net.values:
            raise BlobError(f"the net has no blob '{self.blob}'; it has {', '.join(net.values)}.")
        values = net.values[self.blob].detach().cpu().numpy()
        if not 1 <= values.ndim <= 4:
            raise BlobError(
                f"blob '{self.blob}' has shape {values.shape}; a Datum takes 1 to 4 axes, the "
                "first counting items."
            )
        self.batches.append(values.copy())

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys ``%010d`` and Datums of all items."""
        items: Iterable[np.ndarray] = itertools.chain.from_iterable(self.batches)
        for number, item in enumerate(items):
            yield b"%010d" % number, feature_datum(item)


def extract_features(
    net: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    targets: Mapping[str, str | os.PathLike[str]],
    batches: int,
    backend: str = "lmdb",
    phase: str = "TEST",
) -> dict[str, int]:
    """Run a net on its own data and write blobs, one data base each.

    Caffe source: tools/extract_features.cpp.

    Args:
        net: prototxt with data layers.
        weights: caffemodel.
        targets: folder to make by blob name.
        batches: number of forward passes.
        backend: ``lmdb`` or ``leveldb``.
        phase: "TEST" or "TRAIN".

    Returns:
        Number of items by blob.

    Raises:
        BridgeError: files cannot be read, unknown blobs, or a folder exists already.
    """
    if batches < 1 or not targets:
        raise BridgeError("extract_features: give at least one blob and one batch.")
    model = Net(net, phase, weights)
    model.eval()
    collectors = {blob: _Collector(blob) for blob in targets}
    with ExitStack() as stack:
        for layer in model.built.layers:
            source = getattr(layer, "source", None)
            if source is not None:
                stack.callback(source.close)
        for _ in range(batches):
            model.evaluate()
            for collector in collectors.values():
                collector.take(model)
    for blob, path in targets.items():
        write_records(path, collectors[blob].records(), backend)
    return {blob: sum(map(len, c.batches)) for blob, c in collectors.items()}
