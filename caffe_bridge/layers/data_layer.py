"""Layers that read their tops from a data source: data bases, lists, HDF5 files, arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.data import (
    DatabaseSource,
    DummySource,
    Hdf5Source,
    ImageListSource,
    MemorySource,
    Prefetched,
    Source,
)
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, at_least, between, exactly
from caffe_bridge.layers.registry import register


class DataLayer(Layer):
    """Base of the data layers: no bottoms; the tops are the next batch of ``self.source``.

    A caller may feed all tops instead. The source is opened, and refused with one sentence, when
    the layer is made.
    """

    bottoms = exactly(0)
    is_input = True
    has_source = True
    source: Source
    batch: int = 0

    @abstractmethod
    def make_source(self) -> Source:
        """Open the source.

        Raises:
            DataError: the source cannot deliver.
        """

    def configure(self) -> None:
        """Open the source.

        Raises:
            DataError: the source cannot deliver.
        """
        self.source = self.make_source()

    def batch_size(self) -> int:
        """The batch size of the parameters.

        Raises:
            ShapeError: it is not positive.
        """
        size = int(self.p.batch_size)
        if size <= 0:
            self.fail(f"{self.param_field}.batch_size is {size}; give a positive number.")
        return size

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Shapes of a batch, for as many tops as there are."""
        return self.source.shapes(self.batch)[: len(self.spec.tops)]

    def forward(self) -> list[Tensor]:
        """The next batch.

        Raises:
            DataError: an item cannot be read.
        """
        arrays = self.source.next(self.batch)
        return [torch.from_numpy(array) for array in arrays[: len(self.spec.tops)]]

    def reset(self) -> None:
        """Start again from the first item, with the same random draws."""
        self.source.reset()

    def seed(self, seed: int) -> None:
        """Start again as if made under this seed (0 by default)."""
        self.source.seed(seed)

    def divide(self, rank: int, ranks: int) -> None:
        """Start again and read only this process's part of the items."""
        self.source.divide(rank, ranks)

    def use_workers(self, count: int | None) -> None:
        """Make batches ahead in so many processes, where they are made ahead at all.

        Args:
            count: 0 for one thread, None for as many as are usual for this kind of data.
        """
        if isinstance(self.source, Prefetched):
            self.source.workers = count

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Nothing: its tops are graph inputs."""


@register("Data")
class Data(DataLayer):
    """Images and labels of an LMDB or LevelDB of Datum records, in the order of their keys.

    Bottoms:
        none.
    Tops:
        data: (batch_size, C, h, w), transformed; label (optional): (batch_size,).
    Parameters:
        source: folder of the data base.
        batch_size: images in a batch.
        backend (LEVELDB): LEVELDB or LMDB.
        prefetch (4): batches made ahead, unless the data base fits in memory.
        transform_param: see :class:`caffe_bridge.data.DataTransformer`.
    ONNX:
        graph inputs.
    Caffe source:
        data_layer.cpp, base_data_layer.cpp
    Differences:
        rand_skip has no effect, as in Caffe since data is shared between solvers.
    """

    param_field = "data_param"
    tops = between(1, 2)

    def make_source(self) -> Source:
        """The data base, read ahead when it is large."""
        self.batch = self.batch_size()
        source = DatabaseSource(self.spec, self.phase)
        return Prefetched(source, int(self.p.prefetch)) if source.slow else source


@register("ImageData")
class ImageData(DataLayer):
    """Pictures and labels named in a list file.

    Bottoms:
        none.
    Tops:
        data: (batch_size, C, h, w), BGR, transformed; label: (batch_size,).
    Parameters:
        source: list file, ``name label`` on each line.
        batch_size (1): pictures in a batch.
        root_folder (""): put before each name.
        new_height, new_width (0 = as stored): resize to this, both or none, bilinear.
        is_color (true): three channels, else one.
        shuffle (false): draw the order at every pass.
        rand_skip (0): skip up to this many items at the start.
        transform_param: see :class:`caffe_bridge.data.DataTransformer`.
    ONNX:
        graph inputs.
    Caffe source:
        image_data_layer.cpp
    Differences:
        blank lines of the list are ignored; a label that is no integer is an error, not 0.
    """

    param_field = "image_data_param"
    tops = exactly(2)
    #: Batches made ahead, the number that Caffe has for all prefetching layers.
    ahead = 4

    def make_source(self) -> Source:
        """The list, read ahead."""
        self.batch = self.batch_size()
        return Prefetched(ImageListSource(self.spec, self.phase), self.ahead)


@register("HDF5Data")
class HDF5Data(DataLayer):
    """Rows of HDF5 datasets that are named as the tops.

    Bottoms:
        none.
    Tops:
        one or more: (batch_size, ...) of the dataset with the top's name.
    Parameters:
        source: list file with one HDF5 file on each line.
        batch_size: rows in a batch.
        shuffle (false): draw the order of the files, and of the rows within each.
    ONNX:
        graph inputs.
    Caffe source:
        hdf5_data_layer.cpp
    Differences:
        files whose rows have another shape than those before are refused.
    """

    param_field = "hdf5_data_param"
    tops = at_least(1)

    def make_source(self) -> Source:
        """The list's files, one at a time."""
        self.batch = self.batch_size()
        return Hdf5Source(self.spec)


@register("MemoryData")
class MemoryData(DataLayer):
    """Arrays that the caller gives with :meth:`set_input_arrays`.

    Bottoms:
        none.
    Tops:
        data: (batch_size, channels, height, width); label: (batch_size,).
    Parameters:
        batch_size, channels, height, width: shape of a batch; all must be given.
        transform_param: has no effect on whole arrays, as in Caffe.
    ONNX:
        graph inputs.
    Caffe source:
        memory_data_layer.cpp
    Differences:
        only whole arrays can be given (Caffe's Reset), not lists of Datums or pictures.
    """

    param_field = "memory_data_param"
    tops = exactly(2)

    def make_source(self) -> Source:
        """The arrays to come."""
        self.memory = MemorySource(self.spec)
        self.batch = self.memory.batch
        return self.memory

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Read from these arrays from now on; see :meth:`MemorySource.set_arrays`.

        Raises:
            DataError: shapes do not fit, or N is not a multiple of batch_size.
        """
        self.memory.set_arrays(data, labels)


@register("DummyData")
class DummyData(DataLayer):
    """Arrays filled by fillers; constants once, everything else anew in each forward pass.

    Bottoms:
        none.
    Tops:
        one or more, of the shapes in the parameters.
    Parameters:
        shape: one for all tops or one each; or num, channels, height, width in the same way.
        data_filler (constant 0): one for all tops or one each.
    ONNX:
        graph inputs.
    Caffe source:
        dummy_data_layer.cpp
    Differences:
        the random numbers come from numpy; no bilinear filler.
    """

    param_field = "dummy_data_param"
    tops = at_least(1)

    def make_source(self) -> Source:
        """The fillers."""
        return DummySource(self.spec)
