"""``.caffemodel.h5`` and ``.solverstate.h5``: the layout of Caffe's HDF5 snapshots.

Weights: ``/data/<layer>/<i>`` (and ``/diff/...``); a layer name with ``/`` makes nested groups.
Solver state: ``/iter``, ``/current_step``, ``/learned_net``, ``/history/<i>``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from caffe_bridge.errors import SchemaError, printable
from caffe_bridge.files import atomic_path, require_file
from caffe_bridge.schema.blob import StoredBlob


def _open(path: str | os.PathLike[str], what: str) -> Any:
    found = require_file(path, what)
    try:
        return h5py.File(found, "r")
    except OSError as error:
        raise SchemaError(
            f"{found}: is no readable HDF5 file ({error}); it is damaged or of another kind."
        ) from None


def _layers(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in group.items():
        if not isinstance(item, h5py.Group):
            continue
        full = f"{prefix}{name}"
        if not len(item) or any(isinstance(child, h5py.Dataset) for child in item.values()):
            yield full, item
        yield from _layers(item, full + "/")


def read_weights(path: str | os.PathLike[str]) -> dict[str, list[StoredBlob | None]]:
    """Blobs of every layer of a ``.caffemodel.h5``.

    A shared blob is stored at its owner only; it is ``None`` at its other users.

    Raises:
        SchemaError: not an HDF5 file, without the ``data`` group, or with a blob that is no array
            of numbers.
    """
    with _open(path, "HDF5 weights") as file:
        if not isinstance(file.get("data"), h5py.Group):
            raise SchemaError(f"{path}: has no group 'data'; it is not a .caffemodel.h5.")
        result: dict[str, list[StoredBlob | None]] = {}
        for name, group in _layers(file["data"]):
            keys = [key for key in group if key.isdecimal() and str(int(key)) == key]
            indices = [int(key) for key in keys if isinstance(group[key], h5py.Dataset)]
            blobs: list[StoredBlob | None] = [None] * (max(indices, default=-1) + 1)
            for index in indices:
                values = _numbers(path, group[str(index)])
                blobs[index] = StoredBlob(tuple(values.shape), False, values)
            result[name] = blobs
        return result


def _numbers(path: str | os.PathLike[str], stored: h5py.Dataset) -> np.ndarray:
    """The array of a dataset.

    Raises:
        SchemaError: it holds no numbers or cannot be read.
    """
    try:
        values = np.asarray(stored[()])
    except OSError as error:
        raise SchemaError(
            f"{path}: '{stored.name}' cannot be read ({error}); it is damaged."
        ) from None
    if values.dtype.kind not in "fiu":
        raise SchemaError(f"{path}: '{stored.name}' holds no numbers; the file is damaged.")
    return values


#: Layer names with their blobs.
Layers = Sequence[tuple[str, list[np.ndarray | None]]]


def write_weights(path: str | os.PathLike[str], layers: Layers, diffs: Layers = ()) -> Path:
    """Write ``.caffemodel.h5``; ``None`` marks a blob stored at another layer (shared).

    Of layers with one name the first is written. ``diffs`` go to a group of that name, where Caffe
    puts them too.

    Raises:
        SchemaError: a layer name that HDF5 takes for another place, or that is not UTF-8.
    """
    for name, _blobs in layers:
        if name != printable(name) or any(part in ("", ".") for part in name.split("/")):
            raise SchemaError(
                f"{path}: layer name '{name}' cannot name an HDF5 group; rename the layer or "
                "write a .caffemodel."
            )
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        _fill(file.create_group("data"), layers)
        if diffs:
            _fill(file.create_group("diff"), diffs)
    return Path(path)


def _fill(place: h5py.Group, layers: Layers) -> None:
    for name, blobs in layers:
        group = place.require_group(name)
        if any(isinstance(child, h5py.Dataset) for child in group.values()):
            continue
        for index, values in enumerate(blobs):
            if values is not None:
                group.create_dataset(str(index), data=values)


def read_state(path: str | os.PathLike[str]) -> tuple[int, int, str, list[np.ndarray]]:
    """Iteration, current step, weights file and history of a ``.solverstate.h5``.

    Raises:
        SchemaError: not an HDF5 solver state.
    """
    with _open(path, "HDF5 solver state") as file:
        if "iter" not in file or not isinstance(file.get("history"), h5py.Group):
            raise SchemaError(f"{path}: has no 'iter' and 'history'; it is not a .solverstate.h5.")
        learned = file["learned_net"][()] if "learned_net" in file else b""
        text = os.fsdecode(learned) if isinstance(learned, bytes) else str(learned)
        stored = file["history"]
        lacking = [i for i in range(len(stored)) if str(i) not in stored]
        if lacking:
            raise SchemaError(f"{path}: its history lacks blob {lacking[0]}; the file is damaged.")
        history = [_array(path, stored, str(i)) for i in range(len(stored))]
        counts = [_whole(path, file, name) for name in ("iter", "current_step")]
        return counts[0], counts[1], text, history


def _array(path: str | os.PathLike[str], group: Any, name: str) -> np.ndarray:
    if not isinstance(group[name], h5py.Dataset):
        raise SchemaError(f"{path}: '{name}' is a group, not an array; the file is damaged.")
    return _numbers(path, group[name])


def _whole(path: str | os.PathLike[str], file: Any, name: str) -> int:
    """The number stored under a name, 0 when it is not stored."""
    values = _array(path, file, name).reshape(-1) if name in file else np.zeros(1)
    return int(values[0]) if values.size else 0


def write_state(
    path: str | os.PathLike[str], iteration: int, step: int, learned: str, history: list[np.ndarray]
) -> Path:
    """Write ``.solverstate.h5`` as Caffe does."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("iter", data=np.array([iteration], np.int32))
        file.create_dataset("current_step", data=np.array([step], np.int32))
        file.create_dataset("learned_net", data=np.bytes_(os.fsencode(learned)))
        group = file.create_group("history")
        for index, values in enumerate(history):
            group.create_dataset(str(index), data=values)
    return Path(path)
