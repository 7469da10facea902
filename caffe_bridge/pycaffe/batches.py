"""The parts of pycaffe's Net that stand on forward and backward: whole data sets, files, hooks."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_bridge.errors import BlobError, DataError
from caffe_bridge.layers.data_layer import MemoryData
from caffe_bridge.net import Built
from caffe_bridge.net.weights import stored_arrays
from caffe_bridge.pycaffe.blob import Blob
from caffe_bridge.pycaffe.executor import Executor
from caffe_bridge.schema.hdf5 import write_weights

Arrays = dict[str, Any]
Hook = Callable[[int], None]


def _batches(given: dict[str, Any], size: int) -> Iterator[tuple[Arrays, int]]:
    """The arrays in batches of one size, the last one padded with zeros, and how many are real."""
    arrays = {name: np.asarray(values, np.float32) for name, values in given.items()}
    counts = {name: len(values) for name, values in arrays.items()}
    if len(set(counts.values())) > 1:
        raise BlobError(f"the arrays hold different numbers of items: {counts}; make them equal.")
    total = next(iter(counts.values()), 0)
    for start in range(0, total, size):
        real = min(size, total - start)
        batch = {}
        for name, values in arrays.items():
            part = values[start : start + real]
            if real < size:
                part = np.concatenate([part, np.zeros((size - real, *part.shape[1:]), np.float32)])
            batch[name] = part
        yield batch, real


class BatchMethods:
    """Mixed into :class:`caffe_bridge.pycaffe.net.Net`."""

    built: Built
    executor: Executor
    blobs: OrderedDict[str, Blob]
    _layer_names: list[str]

    if TYPE_CHECKING:  # what Net provides

        @property
        def inputs(self) -> list[str]:
            """Blobs of Input layers."""

        @property
        def outputs(self) -> list[str]:
            """Blobs that no layer reads."""

        def forward(
            self, blobs: Sequence[str] | None = None, start: str | None = None,
            end: str | None = None, **kwargs: Any,
        ) -> OrderedDict[str, np.ndarray]:  # fmt: skip
            """Run the layers."""

        def backward(
            self, diffs: Sequence[str] | None = None, start: str | None = None,
            end: str | None = None, **kwargs: Any,
        ) -> OrderedDict[str, np.ndarray]:  # fmt: skip
            """Back-propagate."""

        def load(self, weights: str | os.PathLike[str]) -> list[str]:
            """Copy weights by layer name."""

    def forward_all(
        self, blobs: Sequence[str] | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """Run the net on more items than a batch holds.

        Args:
            blobs: blobs to return beside the outputs.
            kwargs: for every input blob an array of N items.

        Returns:
            For each output and each of ``blobs`` an array of N items.

        Raises:
            BlobError: inputs are missing or do not fit.
        """
        wanted = [*self.outputs, *(blobs or ())]
        found: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
        for batch, real in _batches(self._inputs_of(kwargs), self._batch_size()):
            made = self.forward(blobs=blobs, **batch)
            for name in found:
                found[name].append(_first(made[name], real))
        return {name: np.concatenate(parts) for name, parts in found.items() if parts}

    def forward_backward_all(
        self,
        blobs: Sequence[str] | None = None,
        diffs: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """As :meth:`forward_all`, with a backward pass from the given output diffs.

        Args:
            blobs: blobs to return beside the outputs.
            diffs: blobs whose gradient to return beside that of the inputs.
            kwargs: arrays of N items for the input blobs (data) and output blobs (gradient).

        Returns:
            Arrays of N items: values, and gradients.

        Raises:
            BlobError: inputs are missing or do not fit.
        """
        size = self._batch_size()
        tops = {name: kwargs[name] for name in self.outputs if name in kwargs}
        inputs = {name: values for name, values in kwargs.items() if name not in tops}
        values: dict[str, list[np.ndarray]] = {n: [] for n in [*self.outputs, *(blobs or ())]}
        grads: dict[str, list[np.ndarray]] = {n: [] for n in [*self.inputs, *(diffs or ())]}
        tops_in_batches = _batches(tops, size)
        for batch, real in _batches(self._inputs_of(inputs), size):
            made = self.forward(blobs=blobs, **batch)
            for name in values:
                values[name].append(_first(made[name], real))
            top_diffs = next(tops_in_batches, ({}, 0))[0]
            back = self.backward(diffs=diffs, **top_diffs)
            for name in grads:
                grads[name].append(_first(back[name], real))
        return (
            {name: np.concatenate(parts) for name, parts in values.items() if parts},
            {name: np.concatenate(parts) for name, parts in grads.items() if parts},
        )

    def _batch_size(self) -> int:
        return next(iter(self.blobs.values())).num

    def _inputs_of(self, given: dict[str, Any]) -> dict[str, Any]:
        if set(given) != set(self.inputs):
            raise BlobError(f"the inputs are {self.inputs}, given are {sorted(given)}.")
        return given

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Let the MemoryData layer at the beginning deliver these arrays.

        Raises:
            DataError: the net starts with another layer, or the arrays do not fit.
        """
        first = self.built.layers[0]
        if not isinstance(first, MemoryData):
            raise DataError(
                f"{first.spec.label()}: set_input_arrays needs a net that starts with MemoryData."
            )
        first.set_input_arrays(data, labels)

    def save_hdf5(self, filename: str | os.PathLike[str]) -> None:
        """Write the weights as HDF5, whatever the file's name."""
        self.executor.push()
        arrays = stored_arrays(self.built, shared=False)
        write_weights(filename, [(name, arrays.get(name, [])) for name in self._layer_names])

    def load_hdf5(self, filename: str | os.PathLike[str]) -> None:
        """Copy weights by layer name from an HDF5 file.

        Raises:
            WeightError: blobs do not fit.
        """
        self.load(filename)

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """The loss weight of every blob, 0 for those that are no loss."""
        weights = self.built.loss_weights()
        found = OrderedDict((name, 0.0) for name in self.blobs)
        for value in self.built.graph.values:
            found[value.blob] = weights.get(value.index, 0.0)
        return found

    @property
    def _blob_names(self) -> list[str]:
        return list(self.blobs)

    @property
    def _blobs(self) -> list[Blob]:
        return list(self.blobs.values())

    @property
    def _blob_loss_weights(self) -> list[float]:
        return list(self.blob_loss_weights.values())

    def _top_ids(self, layer: int) -> list[int]:
        names = list(self.blobs)
        return [names.index(value.blob) for value in self.built.graph.nodes[layer].outputs]

    def _bottom_ids(self, layer: int) -> list[int]:
        names = list(self.blobs)
        return [names.index(value.blob) for value in self.built.graph.nodes[layer].inputs]

    def _forward(self, start: int, end: int) -> float:
        return self.executor.forward(start, end)

    def _backward(self, start: int, end: int) -> None:
        self.executor.backward(start, end)

    def _set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        self.set_input_arrays(data, labels)

    @property
    def _inputs(self) -> list[int]:
        names = list(self.blobs)
        return [names.index(name) for name in self.inputs]

    @property
    def _outputs(self) -> list[int]:
        names = list(self.blobs)
        return [names.index(name) for name in self.outputs]

    def before_forward(self, callback: Hook) -> None:
        """Call a function with the index of each layer before it runs."""
        self.executor.hooks["before_forward"].append(callback)

    def after_forward(self, callback: Hook) -> None:
        """Call a function with the index of each layer after it ran."""
        self.executor.hooks["after_forward"].append(callback)

    def before_backward(self, callback: Hook) -> None:
        """Call a function with the index of each layer before its gradients are computed."""
        self.executor.hooks["before_backward"].append(callback)

    def after_backward(self, callback: Hook) -> None:
        """Call a function with the index of each layer after its gradients were computed."""
        self.executor.hooks["after_backward"].append(callback)


def _first(values: np.ndarray, count: int) -> np.ndarray:
    """A copy of the real items; a scalar counts as one item."""
    return np.array(values[:count]) if np.ndim(values) else np.array(values)[None]
