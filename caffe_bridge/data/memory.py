"""Arrays that the caller gives: the source behind the MemoryData layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffe_bridge.data.source import Source
from caffe_bridge.graph import LayerSpec, Shape


class MemorySource(Source):
    """Arrays of the caller, batch by batch, without any transformation.

    Several processes do not divide them: each has arrays of its own, as in Caffe.

    Args:
        spec: a MemoryData layer.

    Raises:
        DataError: batch_size, channels, height or width is missing.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        p = spec.record.memory_data_param
        self.batch = int(p.batch_size)
        self.image = (int(p.channels), int(p.height), int(p.width))
        if min(self.batch, *self.image) <= 0:
            self.fail(
                "batch_size, channels, height and width of memory_data_param must all be given and "
                f"positive, found {self.batch}, {', '.join(map(str, self.image))}."
            )
        self._data = np.zeros((0, *self.image), np.float32)
        self._labels = np.zeros(0, np.float32)
        self._at = 0

    def set_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Use these arrays from the next batch on.

        Float32 arrays are not copied until they are delivered, so later changes are seen.

        Args:
            data: (N, channels, height, width), N a multiple of the batch size.
            labels: N numbers in any shape.

        Raises:
            DataError: shapes do not fit.
        """
        data = np.asarray(data, np.float32)
        labels = np.asarray(labels, np.float32)
        if data.ndim != 4 or data.shape[1:] != self.image:
            self.fail(
                f"data has shape {data.shape}, expected (N, {', '.join(map(str, self.image))}) "
                "as memory_data_param says."
            )
        if labels.size != len(data):
            self.fail(f"{len(data)} images but {labels.size} labels; give one label for each.")
        if not len(data) or len(data) % self.batch:
            self.fail(
                f"{len(data)} images are not a multiple of batch_size {self.batch}; "
                "give whole batches."
            )
        self._data, self._labels = data, labels.reshape(-1)
        self._at = 0

    def shapes(self, batch: int) -> list[Shape]:
        """(batch, channels, height, width), whatever transform_param says, and (batch,)."""
        return [(batch, *self.image), (batch,)]

    def next(self, batch: int) -> list[np.ndarray]:
        """The next images and labels.

        Raises:
            DataError: no arrays were given.
        """
        count = len(self._data)
        if not count:
            self.fail("has no data yet; call set_input_arrays(data, labels) first.")
        at = (self._at + np.arange(batch)) % count
        self._at = (self._at + batch) % count
        return [self._data[at], self._labels[at]]

    def state(self) -> dict[str, Any]:
        """Place in the arrays; the caller gives these again."""
        return {**super().state(), "at": self._at}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to that place."""
        super().set_state(state)
        self._at = int(state["at"])

    def rewind(self) -> None:
        """Go to the first image."""
        self._at = 0
