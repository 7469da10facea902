"""Weights as matrices of filters, without moving them in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a tensor is stored as NHWC and not as NCHW."""
    return tensor.ndim == 4 and not tensor.is_contiguous() and (
        tensor.is_contiguous(memory_format=torch.channels_last)
    )  # fmt: skip


def grouped_rows(tensor: Tensor, groups: int) -> Tensor:
    """A weight as one matrix of filters for each group of its layer.

    Filters stored channels-last keep their order in memory: what is done with rows here does not
    depend on the order of the columns.

    Returns:
        (groups, n / groups, K): a view where the layout allows it.
    """
    if is_channels_last(tensor):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(groups, tensor.shape[0] // groups, -1)


def like_weight(rows: Tensor, weight: Tensor) -> Tensor:
    """The reverse of :func:`grouped_rows` for a result in the weight's shape and type."""
    rows = rows.to(weight.dtype)
    if is_channels_last(weight):
        n, c, h, w = weight.shape
        return rows.reshape(n, h, w, c).permute(0, 3, 1, 2)
    return rows.reshape(weight.shape)


def same_layout(first: Tensor, second: Tensor) -> bool:
    """Whether the rows of both are views with the columns in one order."""
    dense = first.is_contiguous() or is_channels_last(first)
    return dense and first.stride() == second.stride()
