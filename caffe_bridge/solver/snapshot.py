"""Snapshots that Caffe can resume and the reverse: caffemodel + solverstate, binary or HDF5."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.errors import SolverError
from caffe_bridge.schema import Record, hdf5, make_blob, read_binary, stored_blob, write_binary
from caffe_bridge.schema.binary import is_hdf5


@dataclass(frozen=True)
class State:
    """What a solverstate holds: finished iterations, lr step, weights file, history arrays."""

    iteration: int
    step: int
    learned_net: str
    history: list[np.ndarray]


def snapshot_paths(prefix: str, iteration: int, use_hdf5: bool) -> tuple[str, str]:
    """Caffe's file names: weights and state of an iteration."""
    ending = ".h5" if use_hdf5 else ""
    stem = f"{prefix}_iter_{iteration}"
    return f"{stem}.caffemodel{ending}", f"{stem}.solverstate{ending}"


def write_state(path: str | os.PathLike[str], state: State) -> Path:
    """Write a solverstate in the format that the name's ending tells."""
    if os.fspath(path).endswith(".h5"):
        return hdf5.write_state(path, state.iteration, state.step, state.learned_net, state.history)
    record = Record(
        "SolverState", iter=state.iteration, learned_net=state.learned_net, current_step=state.step
    )
    record.history = [make_blob(values) for values in state.history]
    return write_binary(record, path)


def read_state(path: str | os.PathLike[str]) -> State:
    """Read a solverstate, binary or HDF5.

    Raises:
        SchemaError: the file is missing, damaged or something else.
    """
    if Path(path).is_file() and is_hdf5(path):
        return State(*hdf5.read_state(path))
    record = read_binary(path, "SolverState", "solverstate")
    history = [np.array(stored_blob(blob).array()) for blob in record.history]
    return State(record.iter, record.current_step, record.learned_net, history)


def _fits(stored: np.ndarray, mine: Tensor) -> bool:
    """Whether the shapes are equal; old files hold four axes, the first ones of length 1."""
    shape = tuple(mine.shape)
    return stored.shape in (shape, (1,) * (4 - len(shape)) + shape)


def check_history(path: str, state: State, history: list[Tensor]) -> None:
    """Compare stored history with the solver's tensors.

    Raises:
        SolverError: number or shapes differ: the state belongs to another net or solver type.
    """
    if len(state.history) != len(history):
        raise SolverError(
            f"{path}: holds {len(state.history)} history blobs, this solver has {len(history)}; "
            "it was written by another solver type or for another net."
        )
    for index, (stored, mine) in enumerate(zip(state.history, history, strict=True)):
        if not _fits(stored, mine):
            raise SolverError(
                f"{path}: history blob {index} has shape {tuple(stored.shape)}, this solver's has "
                f"{tuple(mine.shape)}; it was written for another net."
            )


def restore_history(state: State, history: list[Tensor]) -> None:
    """Copy stored history, already checked, into the solver's tensors."""
    for stored, mine in zip(state.history, history, strict=True):
        mine.copy_(torch.from_numpy(np.ascontiguousarray(stored)).reshape(mine.shape))


def weights_beside(learned: str, state: str | os.PathLike[str]) -> str:
    """The weights file of the recorded name beside the solverstate, else where it was written."""
    beside = Path(state).parent / Path(learned).name
    return str(beside) if beside.is_file() else learned
