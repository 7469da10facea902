"""Inputs on which statistics are gathered, and streaming second moments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.errors import BlobError
from caffe_bridge.files import require_file
from caffe_bridge.net import Net

#: One batch: values by input blob.
Feed = dict[str, Tensor]


def npz_feeds(net: Net, path: str | os.PathLike[str], limit: int = 0) -> list[Feed]:
    """Batches from an ``.npz`` with an array for each input blob of a net.

    Args:
        net: its first input gives the batch size; a smaller last batch is dropped.
        path: arrays (items, ...) by blob name.
        limit: number of batches, 0 for all.

    Raises:
        SchemaError: no such file.
        BlobError: no npz, an input is missing, a shape does not fit, or there is less than a batch.
    """
    try:
        with np.load(require_file(path, "npz"), allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name], np.float32) for name in stored.files}
    except (ValueError, OSError, AttributeError) as error:
        raise BlobError(f"{path}: is no npz file of arrays ({error}).") from error
    return array_feeds(net, arrays, limit, str(path))


def array_feeds(
    net: Net, arrays: Mapping[str, np.ndarray], limit: int = 0, source: str = "arrays"
) -> list[Feed]:
    """As :func:`npz_feeds`, from arrays.

    Raises:
        BlobError: see :func:`npz_feeds`.
    """
    shapes = net.inputs
    for name, shape in shapes.items():
        if name not in arrays:
            raise BlobError(f"{source}: has no array '{name}'; the net's inputs: {list(shapes)}.")
        if arrays[name].shape[1:] != tuple(shape[1:]):
            raise BlobError(
                f"{source}: array '{name}' has items of shape {arrays[name].shape[1:]}, the net "
                f"takes {tuple(shape[1:])}."
            )
    counts = {name: len(arrays[name]) // shape[0] for name, shape in shapes.items()}
    count = min(counts.values(), default=0)
    count = min(count, limit) if limit else count
    if count < 1:
        raise BlobError(f"{source}: holds less than one batch {dict(shapes)}; give more items.")
    return [
        {
            name: torch.from_numpy(np.ascontiguousarray(arrays[name][i * s[0] : (i + 1) * s[0]]))
            for name, s in shapes.items()
        }
        for i in range(count)
    ]


@torch.no_grad()
def data_feeds(net: Net, batches: int) -> list[Feed]:
    """Batches that the data layers of a net read.

    Raises:
        BlobError: the net has an input that no data layer feeds.
    """
    feeds: list[Feed] = []
    for _ in range(batches):
        feed: Feed = {}
        for node, layer in zip(net.built.graph.nodes, net.built.layers, strict=True):
            if not layer.is_input:
                continue
            if not layer.has_source:
                raise BlobError(
                    f"{node.layer.label()}: is fed by the caller; give an npz of inputs."
                )
            values = zip(node.outputs, layer.run([]), strict=True)
            feed |= {value.blob: top for value, top in values}
        feeds.append(feed)
    return feeds


class Moments:
    """Means and second moments of two vectors y and g, summed up in float64 batch by batch.

    Args:
        size: length of both vectors.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self._sums = np.zeros((2, size))
        self._outer = np.zeros((3, size, size))

    def add(self, y: np.ndarray, g: np.ndarray) -> None:
        """Add samples, columns of y and g [size, n]."""
        y, g = y.astype(np.float64), g.astype(np.float64)
        self.count += y.shape[1]
        self._sums += y.sum(axis=1), g.sum(axis=1)
        self._outer += y @ y.T, y @ g.T, g @ g.T

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Means of y and g."""
        mean_y, mean_g = self._sums / max(self.count, 1)
        return mean_y, mean_g

    @property
    def covariances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centred second moments yy, yg and gg."""
        (y, g), n = self.means, max(self.count, 1)
        yy, yg, gg = self._outer / n
        return yy - np.outer(y, y), yg - np.outer(y, g), gg - np.outer(g, g)


def columns(value: Tensor, axis: int, positions: Sequence[int] | None) -> np.ndarray:
    """A blob as [channels, samples]: ``axis`` first, everything else flattened and picked."""
    flat = value.detach().movedim(axis, 0).reshape(value.shape[axis], -1)
    chosen = flat if positions is None else flat[:, torch.as_tensor(positions)]
    return np.asarray(chosen.cpu().numpy())
