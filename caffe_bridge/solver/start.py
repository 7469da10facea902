"""What a solver does and checks before its first iteration."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_bridge.errors import SolverError
from caffe_bridge.schema import Record

if TYPE_CHECKING:
    from caffe_bridge.solver.engine import Solver


def load_weights(solver: Solver) -> None:
    """Copy the files of the solver's ``weights`` into its nets, as Solver::InitTrainNet.

    Each entry may name several files, separated by commas; later ones win. Layers that only a test
    net has get theirs too. Rank 0 alone reads; joining the ranks copies its weights.

    Raises:
        BridgeError: a file cannot be read or does not fit.
    """
    if solver.ranks.rank:
        return
    listed = [part.strip() for text in solver.param.weights for part in text.split(",")]
    paths = [path for path in listed if path]
    trained = {blob.layer for blob in solver.net.learnable}
    nets = [solver.net] + [
        net for net in solver.test_nets if {b.layer for b in net.learnable} - trained
    ]
    for net in nets if paths else ():
        missing = [net.load(path) for path in paths]
        for name in missing[0]:
            if all(name in names for names in missing) and (
                net is solver.net or name not in trained
            ):
                solver.say(f"No weights for layer {name}; its fillers stay", "net.cpp:1")


def warn_idle_force(solver: Solver) -> None:
    """Say that a force acts on nothing, as a net without ``force_mult`` silently does in Caffe."""
    if solver.param.force_decay and not any(b.force_mult for b in solver.net.learnable):
        solver.say(
            "Warning: force_decay acts on blobs with a force_mult, and the net has none; give the "
            "convolutions 'param { force_mult: 1 }'.", "sgd_solver.cpp:216",
        )  # fmt: skip


def seed_data(solver: Solver) -> None:
    """Let every data layer draw from the solver's ``random_seed``, each in its own way."""
    if solver.param.random_seed < 0:
        return
    for net in (solver.net, *solver.test_nets):
        for index, layer in enumerate(net.built.layers):
            seed = getattr(layer, "seed", None)
            if callable(seed):
                seed(int(solver.param.random_seed) + index)


def begin(solver: Solver, snapshots: bool = True) -> None:
    """Refuse before the first iteration what would end the run later; say that it begins.

    Args:
        solver: the solver.
        snapshots: the run will write some.

    Raises:
        SolverError: ``snapshot_prefix`` is not set or cannot be written.
    """
    if snapshots:
        required_prefix(solver.param)
        if solver.ranks.rank == 0:
            check_writable(solver.param)
    warn_idle_force(solver)
    solver.say("Solving " + solver.net.built.spec.name, "solver.cpp:279")
    solver.say(f"Learning Rate Policy: {solver.param.lr_policy}", "solver.cpp:280")


def required_prefix(param: Record) -> str:
    """The snapshot prefix.

    Raises:
        SolverError: it is not set.
    """
    if not param.snapshot_prefix:
        raise SolverError(f"{param.where()}: snapshots need snapshot_prefix; set it.")
    return str(param.snapshot_prefix)


def make_folder(param: Record) -> Path:
    """Make the folder of the snapshot prefix; returns it.

    Raises:
        SolverError: it cannot be made.
    """
    folder = Path(param.snapshot_prefix).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SolverError(
            f"{param.where()}: cannot make the folder of snapshot_prefix "
            f"'{param.snapshot_prefix}' ({error.strerror})."
        ) from error
    return folder


def check_writable(param: Record) -> None:
    """Refuse a snapshot prefix that cannot be written, before any work is done.

    Caffe source: Solver::CheckSnapshotWritePermissions; a missing folder is made here.

    Raises:
        SolverError: the folder can neither be made nor written.
    """
    try:
        with tempfile.TemporaryFile(dir=make_folder(param)):
            pass
    except OSError as error:
        raise SolverError(
            f"{param.where()}: cannot write to the folder of snapshot_prefix "
            f"'{param.snapshot_prefix}' ({error.strerror}); make it writable or change the prefix."
        ) from error
