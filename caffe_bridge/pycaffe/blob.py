"""Blob: named storage with live numpy views, as pycaffe shows it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Blob:
    """Values and gradient of one blob.

    ``data`` and ``diff`` are numpy views: editing them in place changes what the net computes. A
    forward pass gives computed blobs new storage, so take ``data`` again after it.
    """

    def __init__(self, data: Tensor, diff: Tensor | None = None) -> None:
        self._data = data
        self._diff = diff

    @property
    def tensor(self) -> Tensor:
        """The values as a tensor that shares their memory."""
        return self._data

    @tensor.setter
    def tensor(self, value: Tensor) -> None:
        if self._diff is not None and self._diff.shape != value.shape:
            self._diff = None
        self._data = value

    @property
    def gradient(self) -> Tensor:
        """The gradient as a tensor, zeros until somebody writes it."""
        if self._diff is None:
            self._diff = torch.zeros_like(self._data)
        return self._diff

    @gradient.setter
    def gradient(self, value: Tensor) -> None:
        self._diff = value

    @property
    def data(self) -> np.ndarray:
        """Live view of the values."""
        return self._data.detach().numpy()

    @property
    def diff(self) -> np.ndarray:
        """Live view of the gradient."""
        return self.gradient.detach().numpy()

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes."""
        return tuple(self._data.shape)

    @property
    def count(self) -> int:
        """Number of values."""
        return self._data.numel()

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
        fresh = torch.zeros([int(size) for size in shape])
        keep = min(fresh.numel(), self._data.numel())
        fresh.view(-1)[:keep] = self._data.detach().reshape(-1)[:keep]
        self.tensor = fresh


class ParamBlob(Blob):
    """A learnable blob: views of a torch parameter and of its accumulated gradient."""

    def __init__(self, parameter: torch.nn.Parameter) -> None:
        super().__init__(parameter)
        self.parameter = parameter

    @property
    def gradient(self) -> Tensor:
        """The parameter's gradient, created as zeros."""
        if self.parameter.grad is None:
            self.parameter.grad = torch.zeros_like(self.parameter)
        return self.parameter.grad

    @gradient.setter
    def gradient(self, value: Tensor) -> None:
        self.parameter.grad = value

    def reshape(self, *shape: int) -> None:
        """Change the shape of the learnable blob in place."""
        if tuple(shape) != self.shape:
            self.parameter.data = self.parameter.data.new_zeros([int(size) for size in shape])
            self.parameter.grad = None
