"""What the training loop asks of the processes that train together; here there is only one."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any

from caffe_bridge.errors import BridgeError, SolverError

if TYPE_CHECKING:
    from torch import Tensor

    from caffe_bridge.solver.engine import Solver


def world_size() -> int:
    """How many processes a launcher started together: 1 without one, or when it started one.

    Raises:
        SolverError: ``WORLD_SIZE`` is no number.
    """
    text = os.environ.get("WORLD_SIZE") or "1"
    if not text.isdecimal():
        raise SolverError(
            f"the environment sets WORLD_SIZE to {text!r}; start the ranks with torchrun, or unset "
            "it."
        )
    return max(1, int(text))


class Ranks:
    """The one process of an ordinary run; :class:`Team` of distributed.py stands for several.

    ``rank`` is this process's number and ``ranks`` how many there are. Rank 0 alone tests, logs
    and writes snapshots.
    """

    rank: int = 0
    ranks: int = 1

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Leave the other ranks, or tell them why this one failed."""

    def join(self, solver: Solver) -> None:
        """Prepare a new solver for training together."""

    def agreed(self, what: str, mine: bool) -> bool:
        """Whether some rank asked to ``stop`` or for a ``snapshot``; the same on all ranks."""
        return mine

    def rescue(self, solver: Solver) -> None:
        """Snapshot the last finished iteration: training cannot go on.

        Runs that ask for no snapshots get none. The data goes on after the batch that was begun.
        """
        wanted = solver.param.snapshot or solver.param.snapshot_after_train
        if not wanted or solver.iteration == solver.safe_iteration:
            return
        try:
            solver.snapshot()
        except BridgeError as failure:
            solver.say(f"No snapshot of iteration {solver.iteration}: {failure}")

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's value in the order of the ranks, on rank 0; None elsewhere."""
        return [value]

    def tell(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        return value

    def copy(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors by those of rank 0."""
