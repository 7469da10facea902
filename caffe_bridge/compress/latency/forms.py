"""Which forms and ranks of a layer are worth timing.

Time is a staircase in the channel block of the runtime, so only multiples of the block (in every
group) are tried, on a grid that is dense at its lower end; above the rank at which a form saves no
multiply-accumulates nothing can be gained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from caffe_bridge.compress.decompose import Decomposition, Rank, decomposition
from caffe_bridge.compress.target import Target

#: Forms that are tried, in this order.
FORMS = ("pca", "weight_svd", "spatial", "spatial_h", "tucker")
#: Multiples of the block in the grid; above the last one every step is a fifth.
_MULTIPLES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32)
#: Shares of the largest ranks that are tried for both sides of tucker.
_SHARES = (0.125, 0.25, 0.375, 0.5, 0.75)
_FC_BLOCK = 32
#: A form that saves less than this has no chance to be faster.
_LEAST_SAVING = 1.05


@dataclass(frozen=True)
class Form:
    """A decomposition at a rank."""

    method: Decomposition
    rank: Rank

    @property
    def label(self) -> str:
        """``pca 64`` or ``tucker 32,64``."""
        ranks = [self.rank] if isinstance(self.rank, int) else self.rank
        return f"{self.method.name} {','.join(map(str, ranks))}"


def grid(most: int, step: int) -> list[int]:
    """Multiples of ``step`` below ``most``, roughly geometric.

    >>> grid(100, 16)
    [16, 32, 48, 64, 80, 96]
    """
    found = [m * step for m in _MULTIPLES if m * step < most]
    while found and len(found) >= len(_MULTIPLES) and found[-1] * 1.2 < most:
        found.append(int(-(-found[-1] * 1.2 // step)) * step)
    return [rank for rank in found if rank < most]


def _pairs(most: tuple[int, ...], step: int) -> list[Rank]:
    """Pairs of ranks whose shares are equal or neighbours, smallest layers first."""
    made: set[tuple[int, ...]] = set()
    for position, first in enumerate(_SHARES):
        for second in _SHARES[max(position - 1, 0) : position + 2]:
            pair = tuple(
                min(max(round(m * share / step), 1) * step, m)
                for m, share in zip(most, (first, second), strict=True)
            )
            if pair != most:
                made.add(pair)
    pairs = sorted(made, key=lambda pair: (math.prod(pair), pair))
    return [*pairs]


def _is_double(name: str, target: Target) -> bool:
    """Whether another form does the same work on maps of the same sizes."""
    if name == "weight_svd":
        return set(target.kernel) == {1}
    return name == "spatial_h" and set(target.window.stride) == {1}


def forms_of(target: Target, block: int, methods: Sequence[str] = FORMS) -> dict[str, list[Form]]:
    """Forms worth timing, by method, ranks rising.

    Args:
        target: the layer.
        block: channel block of the runtime; 0 counts as 8.
        methods: names of the decompositions to try.
    """
    block = block or 8
    made: dict[str, list[Form]] = {}
    for name in methods:
        method = decomposition(name)
        if method.refusal(target) or _is_double(name, target):
            continue
        most = method.max_rank(target.blob, target.group)
        if isinstance(most, int):
            step = (_FC_BLOCK if target.is_fc else block) * target.group
            ranks: list[Rank] = list(grid(most, step))
            # A small layer lives within one block, where a part of it still saves a little.
            if not target.is_fc and most <= 2 * step:
                parts = (step // 4, step // 2)
                ranks = [*(r for r in parts if r and r % target.group == 0), *ranks]
        else:
            ranks = _pairs(most, block * target.group)
        useful = [
            rank for rank in ranks
            if not method.misfit(target, rank) and method.speedup(target, rank) > _LEAST_SAVING
        ]  # fmt: skip
        if useful:
            made[name] = [Form(method, rank) for rank in useful]
    return made
