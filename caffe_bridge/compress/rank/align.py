"""Ranks as multiples of the runtime's channel block.

onnxruntime computes convolutions in blocks of channels (16 with AVX-512, 8 with AVX2): time is a
staircase, and the rank at the upper end of a step costs what its lower end costs. Ranks above the
block that are no multiple of 4 fall out of the fast layout altogether, in grouped convolutions
every rank per group that is no multiple of the block. So rounding up is accuracy for nothing.
"""

from __future__ import annotations


def parts(rank: int | tuple[int, ...]) -> tuple[int, ...]:
    """The ranks of a layer as a tuple."""
    return (rank,) if isinstance(rank, int) else rank


def raise_to(
    rank: int | tuple[int, ...], most: int | tuple[int, ...], group: int, least: int
) -> int | tuple[int, ...]:
    """The rank with every part raised to ``least`` in each group, but not above ``most``.

    >>> raise_to(6, 192, 2, 16)
    32
    >>> raise_to((5, 61), (12, 62), 1, 16)
    (12, 61)
    """
    made = tuple(
        max(part, min(least * group, limit))
        for part, limit in zip(parts(rank), parts(most), strict=True)
    )
    return made[0] if isinstance(rank, int) else made


def align(
    rank: int | tuple[int, ...], most: int | tuple[int, ...], group: int, block: int
) -> int | tuple[int, ...]:
    """The rank with every part rounded up to a multiple of ``block`` in each group.

    A part whose next multiple lies above ``most``, where the layer is exact, becomes ``most``.

    >>> align(19, 64, 1, 16)
    32
    >>> align(40, 192, 2, 16)
    64
    >>> align((5, 61), (16, 62), 1, 8)
    (8, 62)
    """
    made = []
    for part, limit in zip(parts(rank), parts(most), strict=True):
        each = -(-part // group)
        made.append(min(-(-each // block) * block * group, limit))
    return made[0] if isinstance(rank, int) else tuple(made)
