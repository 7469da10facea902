"""What every data source does: deliver batches in a fixed order, again and again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from caffe_bridge.errors import DataError
from caffe_bridge.graph import LayerSpec, Shape


class Source(ABC):
    """Base of all data sources.

    A source belongs to one data layer. Its arrays are float32, contiguous and in the order of the
    layer's tops. After the last item it goes on with the first, within a batch too, as Caffe does.
    All randomness (crops, mirroring, shuffling) comes from ``self.rng``.

    Several processes can divide one stream of items (:meth:`divide`). Each then draws and counts
    for all of them, so that every process is at the same place of the same stream and their
    batches together are the batch that one process would read.

    Args:
        spec: the data layer; its name stands in front of every message.
    """

    #: Whether a batch takes long enough to make (decoding, disk) to be worth making ahead.
    slow: bool = False
    #: Whether a batch is made of encoded pictures, which takes long enough for other processes.
    decodes: bool = False

    def __init__(self, spec: LayerSpec) -> None:
        self.spec = spec
        self._seed = 0
        self.rank, self.ranks = 0, 1
        self.rng = np.random.default_rng(self._seed)

    def fail(self, reason: str) -> NoReturn:
        """Raise DataError with the layer's name in front."""
        raise DataError(f"{self.spec.label()}: {reason}")

    @abstractmethod
    def shapes(self, batch: int) -> list[Shape]:
        """Shapes of the tops for this batch size."""

    @abstractmethod
    def next(self, batch: int) -> list[np.ndarray]:
        """The next ``batch`` items, one array for each top.

        Raises:
            DataError: an item cannot be read or does not fit the others.
        """

    @abstractmethod
    def rewind(self) -> None:
        """Go to the first item; ``self.rng`` is fresh."""

    def reset(self) -> None:
        """Start again from the first item, with the same random draws as the first time."""
        self.rng = np.random.default_rng(self._seed)
        self.rewind()

    def seed(self, seed: int) -> None:
        """Start again as if the source had been made under this seed (0 by default)."""
        self._seed = seed
        self.reset()

    def divide(self, rank: int, ranks: int) -> None:
        """Start again and deliver items rank, rank + ranks, ... of the stream from now on.

        Caffe source: DataLayer::Skip.
        """
        self.rank, self.ranks = rank, ranks
        self.reset()

    def state(self) -> dict[str, Any]:
        """Where the source stands: numbers, strings, lists and arrays that never change later."""
        return {"seed": self._seed, "rng": self.rng.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state` was taken from a source of the same layer.

        Raises:
            KeyError: the state is another kind of source's.
            DataError: the data changed since.
        """
        self._seed = int(state["seed"])
        self.rng = np.random.default_rng(self._seed)
        self.rng.bit_generator.state = state["rng"]

    def close(self) -> None:  # noqa: B027 - most sources hold nothing
        """Free files and threads. The source must not be used afterwards."""


class PlannedSource(Source):
    """A source whose batches are planned in their order and made anywhere.

    All that depends on order, draws above all, is in the plan. Making a batch from its plan changes
    nothing, so that other processes can do it with a pickled copy of the source.
    """

    @property
    def plannable(self) -> bool:
        """Whether batches are planned; False when a source has them in memory already."""
        return True

    @abstractmethod
    def plan(self, batch: int) -> Any:
        """What the next ``batch`` items are, with their draws; goes on to the items after them.

        Raises:
            DataError: an item cannot be found.
        """

    @abstractmethod
    def make(self, plan: Any) -> list[np.ndarray]:
        """The batch of a plan, one array for each top.

        Raises:
            DataError: an item cannot be read or does not fit the others.
        """

    def next(self, batch: int) -> list[np.ndarray]:
        """The next ``batch`` items, one array for each top.

        Raises:
            DataError: an item cannot be read or does not fit the others.
        """
        return self.make(self.plan(batch))


def read_list(spec: LayerSpec, field: str, path: str) -> list[str]:
    """Lines of a list file that are not blank, without the white space around them.

    Raises:
        DataError: no such file, or nothing in it.
    """
    if not path:
        raise DataError(f"{spec.label()}: gives no {field}; name the list file there.")
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise DataError(
            f"{spec.label()}: list file '{path}' cannot be read ({error.strerror}); correct "
            f"{field} (relative paths count from {Path.cwd()})."
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{spec.label()}: list file '{path}' is empty; put one item on each line.")
    return lines
