"""Made-up data: the source behind the DummyData layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from caffe_bridge.data.source import Source
from caffe_bridge.graph import LayerSpec, Shape
from caffe_bridge.schema import Record

T = TypeVar("T")
_LEGACY = ("num", "channels", "height", "width")


def _fan(shape: Shape, filler: Record) -> float:
    count = math.prod(shape)
    fan_in = count / max(1, shape[0] if shape else 1)
    fan_out = count / max(1, shape[1]) if len(shape) > 1 else float(count)
    return {"FAN_IN": fan_in, "FAN_OUT": fan_out}.get(filler.variance_norm, (fan_in + fan_out) / 2)


def _gaussian(rng: np.random.Generator, shape: Shape, filler: Record) -> np.ndarray:
    values = rng.normal(filler.mean, filler.std, shape)
    if filler.sparse >= 0:
        values *= rng.random(shape) < filler.sparse / max(1, shape[0] if shape else 1)
    return values


def _xavier(rng: np.random.Generator, shape: Shape, filler: Record) -> np.ndarray:
    bound = math.sqrt(3.0 / _fan(shape, filler))
    return rng.uniform(-bound, bound, shape)


def _unitball(rng: np.random.Generator, shape: Shape, _filler: Record) -> np.ndarray:
    values = rng.random(shape)
    return values / values.sum(axis=tuple(range(1, len(shape))), keepdims=True)


_FILLERS: dict[str, Callable[[np.random.Generator, Shape, Record], np.ndarray]] = {
    "constant": lambda _rng, shape, filler: np.full(shape, filler.value),
    "uniform": lambda rng, shape, filler: rng.uniform(filler.min, filler.max, shape),
    "gaussian": _gaussian,
    "xavier": _xavier,
    "msra": lambda rng, shape, filler: rng.normal(0, math.sqrt(2.0 / _fan(shape, filler)), shape),
    "positive_unitball": _unitball,
}


class DummySource(Source):
    """Filled arrays: a constant filler fills once, every other one anew for each batch.

    Args:
        spec: a DummyData layer.

    Raises:
        DataError: number of shapes or fillers does not fit the tops, a dim below 1, or a filler
            that is unknown or contradicts itself.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        p = spec.record.dummy_data_param
        self._shapes = self._read_shapes(p)
        fillers = list(p.data_filler) or [Record("FillerParameter", type="constant")]
        self.fillers = self._spread("data_filler", fillers)
        for filler in self.fillers:
            if filler.type not in _FILLERS:
                self.fail(
                    f"filler type '{filler.type}' is not known here; use one of "
                    f"{', '.join(_FILLERS)}."
                )
            if filler.type == "gaussian" and not filler.std >= 0:
                self.fail(f"a gaussian filler has std {filler.std:g}; give 0 or more.")
            if filler.type == "uniform" and not filler.min <= filler.max:
                self.fail(
                    f"a uniform filler has min {filler.min:g} above max {filler.max:g}; swap them."
                )
        for shape in self._shapes:
            if min(shape, default=1) < 1:
                self.fail(f"gives the shape {shape}; every dim must be 1 or more.")
        #: Per top: filled once, so that changes to the blob stay.
        self.fixed = [filler.type == "constant" for filler in self.fillers]
        self._once: list[np.ndarray | None] = [None] * len(self.fillers)

    def _spread(self, name: str, values: list[T]) -> list[T]:
        count = len(self.spec.tops)
        if len(values) not in (1, count):
            self.fail(f"gives {len(values)} {name} for {count} tops; give one for all or one each.")
        return values * count if len(values) == 1 else values

    def _read_shapes(self, p: Record) -> list[Shape]:
        if not any(p.has(name) for name in _LEGACY):
            return self._spread("shape", [tuple(int(d) for d in shape.dim) for shape in p.shape])
        if p.shape:
            self.fail("gives both shape and num, channels, height, width; keep one kind.")
        columns = [self._spread(name, [int(d) for d in getattr(p, name)]) for name in _LEGACY]
        return list(zip(*columns, strict=True))

    def shapes(self, batch: int) -> list[Shape]:
        """The shapes in the parameters; ``batch`` has no influence."""
        return self._shapes

    def next(self, batch: int) -> list[np.ndarray]:
        """Filled arrays of the shapes in the parameters; ``batch`` has no influence."""
        made = []
        for top, (filler, shape) in enumerate(zip(self.fillers, self._shapes, strict=True)):
            values = self._once[top]
            if values is None:
                values = np.asarray(_FILLERS[filler.type](self.rng, shape, filler), np.float32)
                if self.fixed[top]:
                    self._once[top] = values
            made.append(values)
        return made

    def rewind(self) -> None:
        """The draws start again with ``rng``; each of several processes has its own."""
        if self.rank:
            self.rng = np.random.default_rng([self._seed, self.rank])
