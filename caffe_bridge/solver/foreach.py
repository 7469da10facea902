"""Helpers around torch's multi-tensor kernels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def by_value(
    values: Sequence[float], *lists: Sequence[Tensor]
) -> list[tuple[float, list[list[Tensor]]]]:
    """Tensors grouped by equal factor, so that each group takes one fused call; 0 is left out.

    A call with one number for all tensors reads and writes each once; with a list of numbers
    torch first makes the products.
    """
    found: dict[float, list[int]] = {}
    for index, value in enumerate(values):
        if value:
            found.setdefault(value, []).append(index)
    return [(value, [[items[i] for i in chosen] for items in lists])
            for value, chosen in found.items()]  # fmt: skip
