"""Where nets compute: the CPU, or a device with memory of its own that numpy cannot see."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from caffe_bridge.errors import BackendError


@dataclass(eq=False)
class Place:
    """A torch device as the blobs of ``import caffe`` see it.

    Attributes:
        device: where values and learnable blobs are.
        separate: whether host arrays are copies, to be kept equal, and not the memory itself.
        uploads: copies of blobs to the device so far.
        downloads: copies of blobs to the host so far.
    """

    device: torch.device
    separate: bool
    uploads: int = 0
    downloads: int = 0


HOST = Place(torch.device("cpu"), separate=False)


class _Choice:
    """What ``set_mode_*`` and ``set_device`` said."""

    def __init__(self) -> None:
        self.gpu = False
        self.index = 0
        self.warned = False
        self.places: dict[int, Place] = {}


_choice = _Choice()


def current_place() -> Place:
    """Where the next forward pass of every net runs."""
    if not _choice.gpu or not (_choice.places or torch.cuda.is_available()):
        return HOST
    if _choice.index not in _choice.places:
        device = torch.device("cuda", _choice.index)
        _choice.places[_choice.index] = Place(device, separate=True)
    return _choice.places[_choice.index]


def choose_cpu() -> None:
    """Compute on the CPU from the next pass on."""
    _choice.gpu = False


def choose_gpu() -> None:
    """Compute on the chosen GPU; without one warn once and stay on the CPU."""
    _choice.gpu = True
    if current_place() is HOST and not _choice.warned:
        _choice.warned = True
        warnings.warn(
            "set_mode_gpu(): no CUDA device is available to torch, nets run on the CPU.",
            RuntimeWarning,
            stacklevel=3,
        )


def choose_device(index: int) -> None:
    """Number of the GPU that :func:`choose_gpu` means.

    Raises:
        BackendError: a negative number, or one beyond the devices of this machine.
    """
    if index < 0:
        raise BackendError(f"set_device({index}): devices are numbered from 0.")
    if torch.cuda.is_available() and index >= torch.cuda.device_count():
        raise BackendError(
            f"set_device({index}): this machine has {torch.cuda.device_count()} CUDA device(s), "
            "numbered from 0; choose one of them."
        )
    _choice.index = index


def register_place(index: int, place: Place | None) -> None:
    """Let ``set_device(index)`` mean another place than CUDA device ``index``; None undoes it."""
    if place is None:
        _choice.places.pop(index, None)
    else:
        _choice.places[index] = place
