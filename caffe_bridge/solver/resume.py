"""The side file of a snapshot: what Caffe forgets when it resumes.

``<prefix>_iter_N.bridgestate`` lies beside the solverstate, which Caffe reads without it. It holds
where every data layer stands, the states of all random generators, what layers carry from pass to
pass and the last losses, for each rank; and checksums of the weights and the history that it
belongs to, because three files cannot be replaced in one step.

Format: a numpy ``.npz`` with an array ``meta``, JSON text in UTF-8. ``{"array": i}`` in it stands
for the array ``a<i>``.
"""

from __future__ import annotations

import json
import os
import random
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.errors import BridgeError, SolverError
from caffe_bridge.layers.base import Layer
from caffe_bridge.layers.data_layer import DataLayer
from caffe_bridge.solver.loss_scale import LossScale

if TYPE_CHECKING:
    from caffe_bridge.net import Built
    from caffe_bridge.solver.engine import Solver

VERSION = 1
ENDING = ".bridgestate"


def side_path(state: str | os.PathLike[str]) -> Path:
    """The side file of a solverstate, ``.solverstate`` or ``.solverstate.h5``."""
    path = Path(state)
    return path.with_name(path.name.removesuffix(".h5").removesuffix(".solverstate") + ENDING)


def checksum(tensors: Iterable[Tensor]) -> int:
    """CRC-32 over the bytes of tensors in turn."""
    total = 0
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total = zlib.crc32(values.numpy().data, total)
    return total


def _history(solver: Solver) -> list[Tensor]:
    return [h for block in solver.history for h in block]


def _weights(solver: Solver) -> list[Tensor]:
    return [blob.value for blob in solver.net.learnable]


def checksums(solver: Solver) -> dict[str, int]:
    """Checksums of the solver's weights and history."""
    return {"weights": checksum(_weights(solver)), "history": checksum(_history(solver))}


def _carried(layer: Layer, name: str) -> Any:
    value = getattr(layer, name)
    if isinstance(value, list | tuple):
        return [v.detach().cpu().numpy() for v in value]
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _net_state(built: Built) -> dict[str, Any]:
    """Data positions and carried values by ``index:name`` of the layer."""
    found: dict[str, Any] = {}
    for index, layer in enumerate(built.layers):
        entry = {name: _carried(layer, name) for name in layer.carried}
        if isinstance(layer, DataLayer):
            entry["source"] = layer.source.state()
        if entry:
            found[f"{index}:{layer.name}"] = entry
    return found


def _set_net_state(built: Built, state: dict[str, Any], shared_only: bool) -> None:
    for index, layer in enumerate(built.layers):
        if not layer.carried and not isinstance(layer, DataLayer):
            continue
        entry = state[f"{index}:{layer.name}"]
        if isinstance(layer, DataLayer):
            layer.source.set_state(entry["source"])
        for name in () if shared_only else layer.carried:
            value = entry[name]
            if isinstance(value, list):
                value = [torch.from_numpy(np.array(v)) for v in value]
            elif isinstance(value, np.ndarray):
                value = torch.from_numpy(np.array(value))
            setattr(layer, name, value)


def _generators() -> dict[str, Any]:
    """States of torch's, numpy's and Python's global generators."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - user layers may draw from it
    version, numbers, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in cuda],
        "numpy": [name, keys, *rest],
        "python": [version, list(numbers), gauss],
    }


def _set_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(torch.from_numpy(np.array(state["torch"])))
    if state["cuda"] and torch.cuda.is_available():
        for device, values in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(torch.from_numpy(np.array(values)), device)
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def rank_state(solver: Solver) -> dict[str, Any]:
    """What this process alone knows of a run."""
    return {
        "train": _net_state(solver.net.built),
        "test": [_net_state(net.built) for net in solver.test_nets],
        "generators": _generators(),
        "recent": list(solver.recent),
        "loss": solver.loss,
        "gates": [gate.state() for gate in solver.gates if isinstance(gate, LossScale)],
    }


def set_rank_state(solver: Solver, states: list[dict[str, Any]]) -> bool:
    """Go on from the states of all ranks; whether this rank had one of its own."""
    rank, known = solver.ranks.rank, solver.ranks.rank < len(states)
    state = states[rank if known else 0]
    _set_net_state(solver.net.built, state["train"], shared_only=not known)
    for net, entry in zip(solver.test_nets, state["test"], strict=rank == 0):
        _set_net_state(net.built, entry, shared_only=False)
    solver.recent.clear()
    solver.recent.extend(float(loss) for loss in state["recent"])
    solver.loss, solver.resumed = float(state["loss"]), True
    scales = [gate for gate in solver.gates if isinstance(gate, LossScale)]
    # Older side files know of no gates; a run may go on in another precision.
    for gate, entry in zip(scales, state.get("gates", ()), strict=False):
        gate.set_state(entry)
    if known:
        _set_generators(state["generators"])
    return known


def write_side(path: str | os.PathLike[str], solver: Solver, ranks: list[dict[str, Any]]) -> None:
    """Write the side file of a snapshot; ``ranks`` are all processes' :func:`rank_state`."""
    arrays: dict[str, np.ndarray] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays[f"a{len(arrays)}"] = value
            return {"array": len(arrays) - 1}
        if isinstance(value, dict):
            return {str(key): plain(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        return value.item() if isinstance(value, np.generic) else value

    meta = {
        "version": VERSION, "iteration": solver.iteration, **checksums(solver),
        "ranks": plain(ranks),
    }  # fmt: skip
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with Path(path).open("wb") as stream:
        np.savez(stream, meta=text, **arrays)  # type: ignore[arg-type]


def read_side(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a side file.

    Raises:
        SolverError: it is damaged or of a later version.
    """
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        meta = json.loads(arrays["meta"].tobytes())
        found: dict[str, Any] = _with_arrays(meta, arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SolverError(
            f"{path}: is damaged ({error}); resume from an earlier snapshot, or give "
            "--caffe-resume to start the data from its beginning."
        ) from error
    if found.get("version") != VERSION:
        raise SolverError(
            f"{path}: has version {found.get('version')}, this program reads {VERSION}; resume "
            "with the program that wrote it, or give --caffe-resume."
        )
    return found


def _with_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"array"}:
            return arrays[f"a{value['array']}"]
        return {key: _with_arrays(entry, arrays) for key, entry in value.items()}
    return [_with_arrays(entry, arrays) for entry in value] if isinstance(value, list) else value


def apply_side(path: str | os.PathLike[str], solver: Solver, side: dict[str, Any]) -> None:
    """Let the solver go on exactly where the snapshot was taken.

    Raises:
        SolverError: the side file is another net's.
        DataError: the data changed since.
    """
    try:
        known = set_rank_state(solver, side["ranks"])
    except (KeyError, ValueError, TypeError) as error:
        raise SolverError(
            f"{path}: does not fit the nets of this solver ({type(error).__name__}: {error}); "
            "give --caffe-resume to start the data from its beginning."
        ) from error
    if not known:
        torch.manual_seed(torch.initial_seed() + solver.iteration)


def check_side(path: str | os.PathLike[str], solver: Solver, side: dict[str, Any]) -> None:
    """Refuse a side file of other weights or history than the solver now has.

    Raises:
        SolverError: the files are of different runs: the run was killed while it replaced them.
    """
    own = {"iteration": solver.iteration, **checksums(solver)}
    wrong = [name for name, value in own.items() if side.get(name) != value]
    if wrong:
        raise SolverError(
            f"{path}: was written with another {' and '.join(wrong)} than the files beside it; "
            "resume from another snapshot, or give --caffe-resume."
        )


def resume_newest(solver: Solver, prefix: str, exact: bool = True) -> str:
    """Resume from the newest whole snapshot of a prefix; returns its solverstate.

    Raises:
        SolverError: there is none; says why each was refused.
    """
    refused = []
    for path in snapshots(prefix):
        try:
            solver.restore(path, exact)
        except BridgeError as error:
            refused.append(f"{Path(path).name}: {error}")
            solver.say(f"Passing over {path}: {error}", "snapshot.cpp:1")
            continue
        return path
    reasons = "; ".join(refused) or "there is no solverstate of that name"
    raise SolverError(f"no snapshot '{prefix}_iter_*' can be resumed: {reasons}.")


def snapshots(prefix: str) -> list[str]:
    """Solverstates of a prefix, the newest iteration first, binary before HDF5."""
    stem = Path(prefix)
    start = f"{stem.name}_iter_"
    found = []
    for path in stem.parent.glob("*") if stem.parent.is_dir() else ():
        name = path.name.removesuffix(".h5")
        number = name.removeprefix(start).removesuffix(".solverstate")
        if name.startswith(start) and name.endswith(".solverstate") and number.isdigit():
            found.append((-int(number), path.name.endswith(".h5"), str(path)))
    return [path for _number, _hdf5, path in sorted(found)]


def resume(solver: Solver, what: str, exact: bool = True) -> str:
    """Resume all ranks from rank 0's files; returns the solverstate's path.

    Args:
        solver: the new solver, of every rank.
        what: a solverstate, ``latest`` for the newest whole snapshot of the solver's
            snapshot_prefix, or another such prefix.
        exact: use the side file (see :meth:`Solver.restore`).

    Raises:
        BridgeError: nothing there can be resumed.
    """
    ranks, path = solver.ranks, what
    side: dict[str, Any] | None = None
    if ranks.rank == 0:
        if what == "latest" or (not Path(what).is_file() and snapshots(what)):
            prefix = str(solver.param.snapshot_prefix) if what == "latest" else what
            path = resume_newest(solver, prefix, exact)
        else:
            solver.restore(what, exact)
        if exact and ranks.ranks > 1 and side_path(path).is_file():
            side = read_side(side_path(path))
    told = ranks.tell((path, solver.iteration, solver.step_index, side))
    path, solver.iteration, solver.step_index, side = told
    ranks.copy([*_weights(solver), *_history(solver)])
    if ranks.rank and side is not None:
        apply_side(side_path(path), solver, side)
    return path
