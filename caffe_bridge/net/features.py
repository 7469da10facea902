"""Blobs of many batches as data bases, as Caffe's ``extract_features`` writes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from caffe_bridge.data import record_writer
from caffe_bridge.data.records import Put
from caffe_bridge.errors import BlobError, BridgeError
from caffe_bridge.net.net import Net
from caffe_bridge.schema import Record, encode


def feature_datum(values: np.ndarray) -> bytes:
    """The Datum of one item: sizes of its last three axes and its values as floats.

    Args:
        values: one item of a blob, up to three axes.
    """
    channels, height, width = (*values.shape, 1, 1, 1)[:3]
    floats = values.astype(np.float32).reshape(-1)
    datum = Record("Datum", channels=channels, height=height, width=width, float_data=floats)
    return encode(datum)


class _Writer:
    """Items of one blob, put into a data base as the batches come.

    Attributes:
        count: items so far.
    """

    def __init__(self, blob: str, put: Put) -> None:
        self.blob, self.put = blob, put
        self.count = 0

    def take(self, net: Net) -> None:
        """Write the blob's values of the last pass under keys ``%010d``.

        Raises:
            BlobError: more axes than a Datum has.
        """
        values = net.values[self.blob].detach().cpu().numpy()
        if values.ndim > 4:
            raise BlobError(
                f"blob '{self.blob}' has shape {values.shape}; a Datum takes up to 4 axes, the "
                "first counting items."
            )
        for item in values if values.ndim else values[None]:
            self.put(b"%010d" % self.count, feature_datum(item))
            self.count += 1


def extract_features(
    net: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    targets: Mapping[str, str | os.PathLike[str]],
    batches: int,
    backend: str = "lmdb",
    phase: str = "TEST",
    device: str = "cpu",
) -> dict[str, int]:
    """Run a net on its own data and write blobs, one data base each.

    Records are written as batches are computed, so that memory is bounded whatever their number;
    the data bases appear together when all batches are done. Caffe source:
    tools/extract_features.cpp.

    Args:
        net: prototxt with data layers.
        weights: caffemodel.
        targets: folder to make by blob name.
        batches: number of forward passes.
        backend: ``lmdb`` or ``leveldb``.
        phase: "TEST" or "TRAIN".
        device: torch device.

    Returns:
        Number of items by blob.

    Raises:
        BridgeError: files cannot be read, unknown blobs, or a folder exists already.
    """
    if batches < 1 or not targets:
        raise BridgeError("extract_features: give at least one blob and one batch.")
    if len({Path(path).resolve() for path in targets.values()}) < len(targets):
        raise BridgeError("extract_features: two blobs go to one data base; give one each.")
    model = Net(net, phase, weights).to(device)
    model.eval()
    known = model.built.graph.blobs()
    for blob in targets:
        if blob not in known:
            raise BlobError(f"the net has no blob '{blob}'; it has {', '.join(known)}.")
    with ExitStack() as stack:
        for layer in model.built.layers:
            source = getattr(layer, "source", None)
            if source is not None:
                stack.callback(source.close)
        writers = [
            _Writer(blob, stack.enter_context(record_writer(path, backend)))
            for blob, path in targets.items()
        ]
        for _ in range(batches):
            model.evaluate()
            for writer in writers:
                writer.take(model)
    return {writer.blob: writer.count for writer in writers}
