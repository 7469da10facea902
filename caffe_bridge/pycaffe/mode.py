"""Process-wide settings of ``import caffe``: device, seed, several processes, layer types."""

from __future__ import annotations

import time
from typing import Any

import torch

from caffe_bridge.errors import BackendError
from caffe_bridge.layers.registry import LAYERS
from caffe_bridge.log import glog_line, stream_sink
from caffe_bridge.pycaffe.place import (
    choose_cpu,
    choose_device,
    choose_gpu,
    current_place,
)

_MESSAGE = (
    "this interface trains in one process; for several GPUs wrap caffe_bridge.net.Net, a torch "
    "module, in DistributedDataParallel and start the script with 'torchrun --nproc-per-node N'"
)


def set_mode_cpu() -> None:
    """Compute on the CPU from the next pass on."""
    choose_cpu()


def set_mode_gpu() -> None:
    """Compute on the CUDA device that :func:`set_device` chose, from the next pass on.

    Nets, solvers and their blobs move with their next pass. Where torch has no CUDA device there is
    one RuntimeWarning and nets run on the CPU; a Caffe built without GPU stops instead.
    """
    choose_gpu()


def set_device(device: int) -> None:
    """Choose the GPU for :func:`set_mode_gpu`, by its number.

    Raises:
        BackendError: a negative number, or one beyond the devices of this machine.
    """
    choose_device(int(device))


def set_random_seed(seed: int) -> None:
    """Seed fillers, dropout and everything else that torch draws."""
    torch.manual_seed(int(seed))


def layer_type_list() -> list[str]:
    """All layer types that nets can use, sorted."""
    return LAYERS.names()


def solver_count() -> int:
    """Number of processes that train together: 1 in this interface."""
    return 1


def set_solver_count(count: int) -> None:
    """Only one process is possible.

    Raises:
        BackendError: more than one; says how to do it.
    """
    if int(count) != 1:
        raise BackendError(f"set_solver_count({count}): {_MESSAGE}.")


def solver_rank() -> int:
    """Number of this process among those that train together: 0."""
    return 0


def set_solver_rank(rank: int) -> None:
    """Only rank 0 exists.

    Raises:
        BackendError: another rank; says how to do it.
    """
    if int(rank) != 0:
        raise BackendError(f"set_solver_rank({rank}): {_MESSAGE}.")


def set_multiprocess(enabled: bool) -> None:
    """Only False is possible.

    Raises:
        BackendError: True; says how to do it.
    """
    if enabled:
        raise BackendError(f"set_multiprocess(True): {_MESSAGE}.")


def has_nccl() -> bool:
    """Whether :class:`NCCL` works: False."""
    return False


class NCCL:
    """pycaffe's way to train on several GPUs, which does not exist here.

    Raises:
        BackendError: always; says what to do instead.
    """

    def __init__(self, *_arguments: Any) -> None:
        raise BackendError(f"NCCL: {_MESSAGE}.")

    @staticmethod
    def new_uid() -> str:
        """Not available.

        Raises:
            BackendError: always.
        """
        raise BackendError(f"NCCL.new_uid: {_MESSAGE}.")


class Timer:
    """A stopwatch: ``start()``, ``stop()``, then ``ms``."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._seconds = 0.0

    def start(self) -> None:
        """Begin to measure; kernels on the GPU that were asked for before are waited for."""
        self._wait()
        self._started = time.perf_counter()

    def stop(self) -> None:
        """End the measurement."""
        self._wait()
        if self._started is not None:
            self._seconds, self._started = time.perf_counter() - self._started, None

    @staticmethod
    def _wait() -> None:
        device = current_place().device
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    @property
    def ms(self) -> float:
        """Milliseconds of the last measurement; stops one that runs."""
        self.stop()
        return self._seconds * 1000


def init_log(*_arguments: Any) -> None:
    """Accepted: nothing logs unless a command asks for it."""


def log(message: str) -> None:
    """Write one line to the error stream in glog's form."""
    stream_sink()(glog_line(message, "caffe.py:1"))
