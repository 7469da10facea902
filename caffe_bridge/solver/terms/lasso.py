"""Group lasso on rows, columns and blocks of weights (structured sparsity learning).

Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016, and the reference's
scnn branch. A weight is a matrix (n, K) of filters, each group of a convolution one of its own;
for every lasso group W_g

    gradient_g += strength W_g / |W_g|,    0 where |W_g| = 0

    rows     strength = breadth_decay breadth_decay_mult             a filter
    columns  strength = kernel_shape_decay kernel_shape_decay_mult   one weight of all filters
    blocks   strength = block_group_decay block_decay_mult           ydimen rows by xdimen columns,
                                                                     for each block_group_lasso

The multipliers are those of the blob's ParamSpec and default to 0: nothing acts unless asked for.
Groups are not weighted by their size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.schema import Record
from caffe_bridge.solver.terms.base import TERMS, Term

#: Strength, rows and columns of a block; 0 stands for all of them.
Tile = tuple[float, int, int]


def lasso_gradient(weight: Tensor, groups: int, rows: int, columns: int) -> Tensor:
    """W_g / |W_g| for the tiles of a weight.

    Args:
        weight: (n, ...), one filter a row.
        groups: row blocks that are matrices of their own.
        rows: rows in a tile, a divisor of n / groups; 0 takes all.
        columns: columns in a tile, a divisor of K; 0 takes all.

    Returns:
        A contiguous tensor of the weight's shape.
    """
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    high, wide = rows or matrix.shape[1], columns or matrix.shape[2]
    tiles = matrix.reshape(groups, matrix.shape[1] // high, high, matrix.shape[2] // wide, wide)
    norms = tiles.square().sum((2, 4), keepdim=True).sqrt()
    return torch.where(norms > 0, tiles / norms, torch.zeros_like(tiles)).reshape(weight.shape)


@TERMS.register("group_lasso")
class GroupLasso(Term):
    """All three kinds; each blob takes those that its ParamSpec multiplies."""

    order = 20

    def setup(self) -> None:
        """List the tiles of each blob; refuse blocks that do not tile it."""
        self.tiles: dict[int, list[Tile]] = {}
        for index, (blob, param) in enumerate(zip(self.blobs, self.params, strict=True)):
            if blob.value.ndim < 2:
                continue
            found = [
                (self.solver.breadth_decay * param.breadth_decay_mult, 1, 0),
                (self.solver.kernel_shape_decay * param.kernel_shape_decay_mult, 0, 1),
            ]
            if self.solver.block_group_decay:
                found += [self._block(index, spec) for spec in param.block_group_lasso]
            kept = [tile for tile in found if tile[0]]
            if kept:
                self.tiles[index] = kept

    def _block(self, index: int, spec: Record) -> Tile:
        blob = self.blobs[index]
        rows, columns = int(spec.ydimen), int(spec.xdimen)
        strength = self.solver.block_group_decay * spec.block_decay_mult
        n = blob.value.shape[0] // blob.group
        k = blob.value[0].numel()
        if rows < 1 or columns < 1 or n % rows or k % columns:
            raise self.fail(
                f"layer '{blob.layer}': block_group_lasso of {rows} rows (ydimen) by {columns} "
                f"columns (xdimen) does not tile its weight of {n} rows by {k} columns"
                f"{f' in each of {blob.group} groups' if blob.group > 1 else ''}; use divisors."
            )
        return strength, rows, columns

    def active(self) -> bool:
        """Whether any blob takes part."""
        return bool(self.tiles)

    def add(self, weights: Sequence[Tensor], grads: Sequence[Tensor], iteration: int) -> None:
        """Add all kinds."""
        for index, tiles in self.tiles.items():
            for strength, rows, columns in tiles:
                part = lasso_gradient(weights[index], self.blobs[index].group, rows, columns)
                grads[index].add_(part, alpha=strength)
