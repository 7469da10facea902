"""The memory of a blob: one tensor where the net computes, and what numpy sees of it.

Caffe source: syncedmem.cpp. Differences: arrays that were handed out stay valid views. As long as
one is alive the next values of the same shape are copied into it, and what the host wrote into it
counts in the next pass; where none is alive nothing is copied.
"""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.pycaffe.place import HOST, Place


class Memory:
    """Values of one kind (data or diff) of one blob.

    Attributes:
        place: where ``value`` is.
        viewed: whether the host could have written since the last :meth:`assign`.
        borrowed: whether the value's memory belongs to somebody else as well; then the first array
            handed out is of a copy.
    """

    def __init__(self, value: Tensor | None = None) -> None:
        self._value = value
        self.place = HOST
        self.viewed = False
        self.borrowed = False
        self._mirror: Tensor | None = None
        self._written = False
        self._state: tuple[int, int] | None = None
        self._handed: weakref.ref[np.ndarray] | None = None

    @property
    def value(self) -> Tensor:
        """The tensor where the net computes; :meth:`push` first if the host may have written."""
        assert self._value is not None
        return self._value

    @value.setter
    def value(self, tensor: Tensor) -> None:
        self._value = tensor

    @property
    def live(self) -> bool:
        """Whether an array that was handed out is still in use."""
        return self._handed is not None and self._handed() is not None

    def array(self) -> np.ndarray:
        """A live view for the host."""
        if self.borrowed:
            self.value, self.borrowed = self.value.clone(), False
        source = self.value.detach()
        if self.place.separate:
            self._pull()
            assert self._mirror is not None
            source = self._mirror
        base = self._handed() if self._handed is not None else None
        if base is None or base.ctypes.data != source.data_ptr() or base.shape != source.shape:
            base = source.numpy()
            self._handed = weakref.ref(base)
        self.viewed = self._written = True
        return base.view()

    def _key(self) -> tuple[int, int]:
        return self.value.data_ptr(), self.value._version

    def _pull(self) -> None:
        """Bring the mirror up to date, unless it is the newer one."""
        if self._mirror is None or self._mirror.shape != self.value.shape:
            self._mirror, self._state = torch.empty(self.value.shape, dtype=self.value.dtype), None
        if self._state != self._key():
            self._mirror.copy_(self.value.detach())
            self.place.downloads += 1
            self._state, self._written = self._key(), False

    def push(self) -> Tensor:
        """The value with everything that the host wrote.

        Where the device's value changed after the host last saw it, the device's stays.
        """
        if self.place.separate and self._mirror is not None:
            if self._state != self._key():
                self.settle()
            elif self._written or self.live:
                self.value.data.copy_(self._mirror)
                self.place.uploads += 1
                self._written = False
        return self.value

    def settle(self) -> None:
        """After the value changed where it is: show it in the arrays that are in use."""
        if self.place.separate and self._state != self._key():
            self._written = False
            if self.live:
                self._pull()

    def changed(self) -> None:
        """As :meth:`settle`, for a change that torch did not count."""
        self._state = None
        self.settle()

    def assign(self, result: Tensor, borrowed: bool = False) -> None:
        """Take new values.

        Args:
            result: the values, kept without copying where no array is in use.
            borrowed: whether its memory belongs to somebody else as well.
        """
        same = self.live and result.shape == self.value.shape
        if self.place.separate:
            device = self.place.device
            self.value = result if result.device == device else result.to(device)
            self.borrowed, self._state = False, None
            if same:
                self.settle()
            elif self._mirror is None or result.shape != self._mirror.shape:
                self._mirror, self._handed = None, None
        elif same:
            # .data: earlier passes keep their right to this memory, as in Caffe.
            self.value.data.copy_(result)
        else:
            self.value, self.borrowed, self._handed = result, borrowed, None
        self.viewed = same

    def move(self, place: Place) -> None:
        """Go to another place; arrays in use stay views."""
        if place is self.place:
            return
        if self.borrowed:
            self.value, self.borrowed = self.value.clone(), False
        value = self.push().data  # not detach(): it would go on counting the value's changes
        if self.place.separate and (self.live or not place.separate):
            self._pull()
        if place.separate:
            if not self.place.separate:
                self._mirror = value
            self.value = value.to(place.device, copy=True)
            place.uploads += 1
            self._state, self._written = self._key(), False
        else:
            assert self._mirror is not None
            self.value, self._mirror = self._mirror, None
        self.place = place


class ParameterMemory(Memory):
    """The values of a torch parameter."""

    def __init__(self, parameter: torch.nn.Parameter) -> None:
        super().__init__()
        self.parameter = parameter

    @property
    def value(self) -> Tensor:
        """The parameter."""
        return self.parameter

    @value.setter
    def value(self, tensor: Tensor) -> None:
        self.parameter.data = tensor


class GradientMemory(ParameterMemory):
    """The accumulated gradient of a torch parameter, zeros until somebody writes it."""

    @property
    def value(self) -> Tensor:
        """The gradient."""
        if self.parameter.grad is None:
            self.parameter.grad = torch.zeros_like(self.parameter, requires_grad=False)
        return self.parameter.grad

    @value.setter
    def value(self, tensor: Tensor) -> None:
        grad = self.parameter.grad
        if grad is not None and grad.shape == tensor.shape:
            grad.data = tensor
        else:
            self.parameter.grad = tensor
