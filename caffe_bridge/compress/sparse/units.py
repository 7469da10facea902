"""The units in which weights become zero, on the matrix of a layer.

A layer's weight is a matrix of N filters by K weights, for each group of a convolution one of its
own; a unit is a set of entries that become zero together:

    element   one weight
    row       all weights of a filter
    filter    a row and the filter's bias: its channel is constantly zero
    column    one weight of all filters of a group
    channel   all weights that read one input channel (of one group)
    block     R rows by C columns; at the edges what is left

Only filters and channels make tensors smaller; a column does where it is a whole channel (1x1
kernels and fully connected layers).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffe_bridge.compress.target import Target
from caffe_bridge.errors import PlanError

UNITS = ("element", "row", "column", "filter", "channel", "block")


@dataclass(frozen=True)
class Unit:
    """A kind of unit; ``rows`` and ``columns`` are the size of a block."""

    kind: str
    rows: int = 1
    columns: int = 1

    def __post_init__(self) -> None:
        if self.kind not in UNITS:
            raise PlanError(f"unit '{self.kind}' is not known; use {', '.join(UNITS)}.")
        if self.rows < 1 or self.columns < 1:
            raise PlanError(
                f"a block of {self.rows} rows by {self.columns} columns holds nothing; give "
                "positive sizes."
            )


def labels(target: Target, unit: Unit) -> np.ndarray:
    """The number of the unit to which each weight belongs.

    Returns:
        Integers [N, K]; numbers run from 0 without gaps.
    """
    n, k = target.num_output, target.inputs
    rows, columns = np.arange(n)[:, None], np.arange(k)[None, :]
    group = rows // (n // target.group)
    if unit.kind == "element":
        return rows * k + columns
    if unit.kind in ("row", "filter"):
        return rows + 0 * columns
    if unit.kind == "column":
        return group * k + columns
    if unit.kind == "channel":
        return group * target.shape[0] + columns // (k // target.shape[0])
    inside = rows - group * (n // target.group)
    high, wide = -(-(n // target.group) // unit.rows), -(-k // unit.columns)
    return (group * high + inside // unit.rows) * wide + columns // unit.columns


def unit_sizes(target: Target, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square and number of entries of each unit, the bias of a filter included."""
    numbers = labels(target, unit).ravel()
    squares: np.ndarray = np.bincount(numbers, (target.weight.astype(np.float64) ** 2).ravel())
    counts: np.ndarray = np.bincount(numbers)
    if unit.kind == "filter" and target.bias is not None:
        squares = squares + np.square(target.bias, dtype=np.float64)
        counts = counts + 1
    return np.sqrt(squares / counts), counts


def zeroed(target: Target, unit: Unit, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight [N, K] and bias with the chosen units set to zero."""
    weight = np.where(chosen[labels(target, unit)], 0, target.weight)
    bias = target.bias
    if unit.kind == "filter" and bias is not None:
        bias = np.where(chosen, 0, bias)
    return weight.astype(target.weight.dtype), bias


def parse_block(text: str) -> tuple[int, int]:
    """``8x4`` as rows and columns.

    Raises:
        PlanError: something else.
    """
    rows, _, columns = text.lower().partition("x")
    if not (rows.isdigit() and columns.isdigit()) or not int(rows) * int(columns):
        raise PlanError(f"block '{text}': write it as ROWSxCOLUMNS, for example 8x4.")
    return int(rows), int(columns)
