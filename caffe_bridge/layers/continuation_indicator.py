"""ContinuationIndicator: where the sequences of a batch begin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register


@register("ContinuationIndicator")
class ContinuationIndicator(Layer):
    """0 in the first time step and 1 in all others: the second bottom of LSTM and RNN.

    Bottoms:
        none.
    Tops:
        cont: (time_step, batch_size).
    Parameters:
        time_step, batch_size: positive.
    ONNX:
        an initializer, of this batch size.
    Caffe source:
        continuation_indicator_layer.cpp of xmfbit/warpctc-caffe
    Differences:
        none.
    """

    param_field = "continuation_indicator_param"
    bottoms = exactly(0)
    differentiable = False

    def configure(self) -> None:
        """Check the sizes and make the values."""
        self.size = (int(self.p.time_step), int(self.p.batch_size))
        if min(self.size) < 1:
            self.fail(f"time_step {self.size[0]} and batch_size {self.size[1]} must be positive.")
        values = torch.ones(self.size)
        values[0] = 0
        self.register_buffer("values", values, persistent=False)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The sizes in the parameters."""
        return [self.size]

    def forward(self) -> Tensor:
        """The values."""
        return self.get_buffer("values").clone()

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """The values as a constant."""
        values = self.get_buffer("values").cpu().numpy().astype(np.float32)
        e.op("Identity", [e.constant(values, "cont")], tops)
