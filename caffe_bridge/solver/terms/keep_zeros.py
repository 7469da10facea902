"""Masks of a pruned net: weights that are zero when training starts stay zero.

With ``keep_zeros: true`` the mask of a weight is read off its values before the first update of a
run, so that it needs no file of its own: it lies in every caffemodel. A resumed run reads the same
mask off the snapshot's weights.

    gradient <- 0 where the mask is 0     after all other terms, so that momentum stays 0 as well
    W        <- 0 where the mask is 0     after the update, for momentum from before the mask

Masked are blobs of two axes or more. A bias that is zero stays zero where all weights of its filter
are; other biases, scales and statistics are free. Test nets use the same blobs. Weights that some
training sets to exactly zero by chance count as masked after a resume. Gradients are clipped before
they are masked.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.solver.terms.base import TERMS, Term


@TERMS.register("keep_zeros")
class KeepZeros(Term):
    """Every blob that holds a zero when the first gradient arrives."""

    order = 1000

    def setup(self) -> None:
        """The masks are found later, once the weights are loaded."""
        self.masks: dict[int, Tensor] | None = None

    def active(self) -> bool:
        """Whether ``keep_zeros`` is set."""
        return bool(self.solver.keep_zeros)

    def _found(self, weights: Sequence[Tensor]) -> dict[int, Tensor]:
        masks = {
            index: weight == 0
            for index, (weight, blob) in enumerate(zip(weights, self.blobs, strict=True))
            if weight.ndim >= 2 and blob.role == "weight"
        }
        owners = {(self.blobs[i].layer, self.blobs[i].index): i for i in masks}
        for index, (weight, blob) in enumerate(zip(weights, self.blobs, strict=True)):
            owner = owners.get((blob.layer, 0))
            if blob.role != "bias" or owner is None or weight.ndim != 1:
                continue
            mask = masks[owner]
            if mask.shape[0] != len(weight):
                mask = mask.T  # a fully connected layer that stores inputs first
            if mask.shape[0] == len(weight):
                masks[index] = mask.flatten(1).all(1) & (weight == 0)
        return {index: mask for index, mask in masks.items() if bool(mask.any())}

    def add(self, weights: Sequence[Tensor], grads: Sequence[Tensor], iteration: int) -> None:
        """Take the masked gradients away."""
        if self.masks is None:
            self.masks = self._found(weights)
        for index, mask in self.masks.items():
            grads[index].masked_fill_(mask, 0)

    def project(self, weights: Sequence[Tensor], iteration: int) -> None:
        """Set the masked weights to zero."""
        for index, mask in (self.masks or {}).items():
            weights[index].masked_fill_(mask, 0)
