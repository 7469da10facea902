"""When training breaks: where the first number that is not finite appeared, and what is whole.

Nothing is written over: a broken net is never snapshotted, and a snapshot that cannot be written
leaves the older ones as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caffe_bridge.errors import SolverError
from caffe_bridge.net import RuntimeNet

if TYPE_CHECKING:
    from caffe_bridge.solver.engine import Solver
    from caffe_bridge.solver.solvable import SolvableNet


def check_loss(solver: Solver) -> None:
    """Stop training when the loss of this iteration is not finite.

    Raises:
        SolverError: names the iteration, the layer where it began and the last snapshot.
    """
    if math.isfinite(solver.loss):
        return
    raise SolverError(
        f"iteration {solver.iteration}: the loss is {solver.loss}; {origin(solver.net)}. "
        f"{advice(solver)} or lower base_lr, or set clip_gradients."
    )


def check_weights(solver: Solver) -> None:
    """Refuse to snapshot weights that are not finite.

    Raises:
        SolverError: names the layer and the last snapshot.
    """
    values = [blob.value.detach() for blob in solver.net.learnable]
    if not values or bool(torch.stack(torch._foreach_norm(values)).isfinite().all()):
        return
    found = next((text for text in _broken_weights(solver.net)), "")
    if found:
        raise SolverError(
            f"iteration {solver.iteration}: no snapshot is written, because {found}. "
            f"{advice(solver)} or lower base_lr, or set clip_gradients."
        )


def advice(solver: Solver) -> str:
    """What a user can go back to."""
    if solver.ranks.rank:
        return "Rank 0 names the last good snapshot: resume from it with --snapshot"
    if solver.last_snapshot:
        return f"The last good snapshot is {solver.last_snapshot}: resume from it with --snapshot"
    return "No snapshot was written before: start again"


def write_failed(solver: Solver, path: str, error: Exception) -> SolverError:
    """The error for a snapshot that could not be written."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return SolverError(
        f"iteration {solver.iteration}: cannot write snapshot {path} ({reason}); nothing of it is "
        f"left. Free space or change snapshot_prefix. {advice(solver)}."
    )


def origin(net: SolvableNet) -> str:
    """The first layer, in forward order, with a number that is not finite, in words."""
    fetch: Callable[[str], Tensor] = net.fetch
    if isinstance(net, RuntimeNet) and net.partial:
        fetch = net.replay().__getitem__
    weights = {text.partition(": ")[0]: text for text in _broken_weights(net)}
    for node in net.built.graph.nodes:
        label = f"layer {node.layer.label()}"
        if label in weights:
            return f"it began in {weights[label]}"
        for value in node.outputs:
            found = count(fetch(value.blob))
            if found:
                return f"it began in {label}: its top '{value.blob}' holds {found}"
    return "no blob of the last pass holds it, so that it began in the sum of the losses"


def _broken_weights(net: SolvableNet) -> Iterator[str]:
    for layer in net.built.layers:
        for index, blob in enumerate(layer.blobs):
            found = count(blob.detach())
            if found:
                yield f"layer {layer.spec.label()}: its learnable blob {index} holds {found}"


def count(values: Tensor) -> str:
    """How many numbers are not finite, in words; empty when all are."""
    nans, infinite = int(values.isnan().sum()), int(values.isinf().sum())
    if not nans and not infinite:
        return ""
    return f"{nans} NaN and {infinite} infinite of {values.numel()} numbers"
