"""Taking over a training that was run by hand with ``caffe-bridge train``.

A folder ``NAME_sSEED`` with a ``solver.prototxt`` of the same settings as the experiment's, a
``train.log`` and the last snapshot counts as that training. What it started from is not written in
these files: the user who asks for adoption vouches for it, and the report says which were adopted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caffe_bridge.errors import SolverError
from caffe_bridge.schema import Record, parse_text, upgrade_solver
from caffe_bridge.solver.read_log import read_log_file

#: Fields that do not change what is trained.
_FREE = {
    "net", "display", "test_interval", "test_initialization", "test_compute_loss", "snapshot",
    "snapshot_prefix", "snapshot_format", "snapshot_after_train", "solver_mode", "device_id",
    "average_loss", "debug_info",
}  # fmt: skip


def _decisive(solver: Record) -> dict[str, Any]:
    made = {}
    for name, kind in solver.record_type.fields.items():
        if name in _FREE or kind.message is not None:
            continue
        value = getattr(solver, name)
        # Files hold decimals, the experiment binary numbers: seven digits tell them apart.
        made[name] = float(f"{value:.6g}") if isinstance(value, float) else value
    if not made.get("force_decay"):
        made = {k: v for k, v in made.items() if not k.startswith("force_")}
    return made


def adopted(solver: Record) -> dict[str, Any] | None:
    """The result of a training that lies in the folder of a solver's snapshots, if there is one.

    Args:
        solver: what the experiment would train.

    Returns:
        As :func:`caffe_bridge.experiment.train.train`, with ``adopted`` True; None if the folder
        holds no finished training.

    Raises:
        SolverError: it holds one with other settings, which a training here would overwrite.
    """
    folder, total = Path(solver.snapshot_prefix).parent, int(solver.max_iter)
    weights = folder / f"net_iter_{total}.caffemodel"
    path, log = folder / "solver.prototxt", folder / "train.log"
    if not all(p.is_file() for p in (weights, path, log)):
        return None
    text = path.read_text(encoding="utf-8")
    theirs = upgrade_solver(parse_text(text, "SolverParameter", str(path)))
    wanted, found = _decisive(solver), _decisive(theirs)
    differing = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
    if differing:
        raise SolverError(
            f"{path}: differs from the experiment in {', '.join(differing)}; move the folder away, "
            "or train it again by leaving out --adopt."
        )
    rows = read_log_file(log)
    scores = [[int(r["NumIters"]), r["accuracy"]] for r in rows.test if "accuracy" in r]
    losses = [[int(r["NumIters"]), r["loss"]] for r in rows.train if "loss" in r]
    if not scores or scores[-1][0] != total:
        return None
    accuracy = scores[-1][1]
    return {
        "weights": str(weights), "accuracy": accuracy, "losses": losses, "accuracies": scores,
        "iterations": total, "adopted": True,
        "headline": f"taken over, test accuracy {accuracy:.2%}",
    }  # fmt: skip
