"""Blob: named storage with live numpy views, as pycaffe shows it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.pycaffe.memory import GradientMemory, Memory, ParameterMemory
from caffe_bridge.pycaffe.place import Place


class Blob:
    """Values and gradient of one blob.

    ``data`` and ``diff`` are numpy views: editing them in place changes what the net computes, and
    an array taken once shows the values of every later pass until the blob's shape changes.
    """

    def __init__(self, data: Tensor) -> None:
        self.values = Memory(data)
        self._gradients: Memory | None = None

    @property
    def gradients(self) -> Memory:
        """The memory of the gradient, zeros until somebody writes it."""
        if self._gradients is None:
            self._gradients = Memory(torch.zeros_like(self.values.value))
            self._gradients.place = self.values.place
        return self._gradients

    @property
    def has_gradient(self) -> bool:
        """Whether the gradient was written since the shape last changed."""
        return self._gradients is not None

    @property
    def tensor(self) -> Tensor:
        """The values as a tensor where the net computes."""
        return self.values.push()

    @tensor.setter
    def tensor(self, value: Tensor) -> None:
        self.put(value)

    def put(self, value: Tensor, borrowed: bool = False) -> None:
        """Take new values; see :meth:`Memory.assign`."""
        if self._gradients is not None and self._gradients.value.shape != value.shape:
            self._gradients = None
        self.values.assign(value, borrowed)

    @property
    def gradient(self) -> Tensor:
        """The gradient as a tensor where the net computes."""
        return self.gradients.push()

    @gradient.setter
    def gradient(self, value: Tensor) -> None:
        self.gradients.assign(value)

    def push(self) -> None:
        """Bring to the device what the host wrote."""
        self.values.push()
        if self.has_gradient:
            self.gradients.push()

    def settle(self) -> None:
        """Show in the host's arrays what changed on the device."""
        self.values.settle()
        if self.has_gradient:
            self.gradients.settle()

    def changed(self) -> None:
        """As :meth:`settle`, for changes that torch did not count."""
        self.values.changed()
        if self.has_gradient:
            self.gradients.changed()

    def move(self, place: Place) -> None:
        """Go to another place."""
        self.values.move(place)
        if self.has_gradient:
            self.gradients.move(place)

    @property
    def data(self) -> np.ndarray:
        """Live view of the values."""
        return self.values.array()

    @property
    def diff(self) -> np.ndarray:
        """Live view of the gradient."""
        return self.gradients.array()

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes."""
        return tuple(self.values.value.shape)

    @property
    def count(self) -> int:
        """Number of values."""
        return self.values.value.numel()

    def _legacy(self, axis: int) -> int:
        return self.shape[axis] if axis < len(self.shape) else 1

    @property
    def num(self) -> int:
        """Size of axis 0 (legacy name)."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """Size of axis 1 (legacy name)."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """Size of axis 2 (legacy name)."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """Size of axis 3 (legacy name)."""
        return self._legacy(3)

    def reshape(self, *shape: int) -> None:
        """Change the shape; values are kept as far as they fit, as Caffe keeps its memory."""
        if tuple(shape) == self.shape:
            return
        old = self.tensor.detach().reshape(-1)
        fresh = torch.zeros([int(size) for size in shape], device=old.device)
        keep = min(fresh.numel(), old.numel())
        fresh.view(-1)[:keep] = old[:keep]
        self.tensor = fresh


class ParamBlob(Blob):
    """A learnable blob: views of a torch parameter and of its accumulated gradient."""

    def __init__(self, parameter: torch.nn.Parameter) -> None:
        self.parameter = parameter
        self.values = ParameterMemory(parameter)
        self._gradients = GradientMemory(parameter)

    @property
    def has_gradient(self) -> bool:
        """Whether there is a gradient."""
        return self.parameter.grad is not None

    def move(self, place: Place) -> None:
        """Go to another place."""
        assert self._gradients is not None
        super().move(place)
        self._gradients.place = place

    def reshape(self, *shape: int) -> None:
        """Change the shape of the learnable blob in place."""
        if tuple(shape) != self.shape:
            self.parameter.grad = None
            self.values.assign(self.parameter.data.new_zeros([int(size) for size in shape]))


def param_blob(parameter: torch.nn.Parameter) -> ParamBlob:
    """The one blob of a parameter, whatever nets share it."""
    found: ParamBlob | None = getattr(parameter, "_param_blob", None)
    if found is None:
        found = ParamBlob(parameter)
        parameter._param_blob = found  # type: ignore[attr-defined]
    return found
