"""Dropout: sets values to zero by chance while training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("Dropout")
class Dropout(Layer):
    """Dropout: TRAIN ``y = x m / (1 - ratio)``, m being 1 with probability 1 - ratio; TEST y = x.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        dropout_ratio (0.5), and from forks scale_train (true; false: TRAIN ``y = x m``, TEST
        ``y = (1 - ratio) x``) and sample_weights_test (false; true: TEST drops as TRAIN does).
    ONNX:
        nothing (the top is another name of the bottom), or Mul by 1 - ratio; sampling in the
        TEST phase is refused.
    Caffe source:
        dropout_layer.cpp
    Differences:
        the masks come from torch's generator.
    """

    param_field = "dropout_param"

    def configure(self) -> None:
        """Check the ratio."""
        if not 0 <= self.p.dropout_ratio < 1:
            self.fail(f"dropout_ratio {self.p.dropout_ratio:g} must lie in [0, 1).")

    def forward(self, x: Tensor) -> Tensor:
        """Drop values in the TRAIN phase."""
        keep = 1.0 - self.p.dropout_ratio
        if not self.train_phase and not self.p.sample_weights_test:
            return x if self.p.scale_train else x * keep
        if self.p.scale_train:
            return functional.dropout(x, self.p.dropout_ratio)
        return x * torch.bernoulli(torch.full_like(x, keep))

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Another name of the bottom, or Mul."""
        if self.train_phase or self.p.sample_weights_test:
            self.refuse(
                "drops values by chance; export the TEST phase without sample_weights_test."
            )
        if self.p.scale_train:
            e.alias(bottoms[0], tops[0])
            return
        keep = np.array(1.0 - self.p.dropout_ratio, np.float32)
        e.op("Mul", [bottoms[0], e.constant(keep, "keep")], tops)
