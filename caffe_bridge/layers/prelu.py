"""PReLU: the rectifier with learned slopes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer
from caffe_bridge.layers.registry import register
from caffe_bridge.schema import Record


@register("PReLU")
class PReLU(Layer):
    """Rectifier with a learned slope per channel: ``y = max(x, 0) + a_c * min(x, 0)``.

    Bottoms:
        x: (N, C, ...), at least two axes.
    Tops:
        y: the same shape; may be in place.
    Blobs:
        slope: (C,), or () with ``channel_shared``; ``filler``, constant 0.25 when absent.
    Parameters:
        filler, channel_shared (false).
    Gradient:
        at x = 0 it is the slope.
    ONNX:
        PRelu.
    Caffe source:
        prelu_layer.cpp
    Differences:
        none.
    """

    param_field = "prelu_param"

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """The slopes."""
        filler = self.p.filler
        if not self.p.has("filler"):
            filler = Record("FillerParameter", type="constant", value=0.25)
        return [BlobSpec(() if self.p.channel_shared else (shapes[0][1],), filler)]

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The bottom's shape."""
        if len(shapes[0]) < 2:
            self.fail(f"bottom shape {tuple(shapes[0])} has no channels; it needs two axes.")
        return [tuple(shapes[0])]

    def _slope_shape(self, axes: int) -> tuple[int, ...]:
        return (-1, *(1,) * (axes - 2))

    def forward(self, x: Tensor) -> Tensor:
        """Rectify."""
        return torch.where(x > 0, x, x * self.blobs[0].reshape(self._slope_shape(x.ndim)))

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """PRelu with slopes that broadcast from the channel axis."""
        axes = len(e.shape(bottoms[0]))
        if axes == 2 or self.p.channel_shared:
            slope = e.blob(0)
        else:
            values = self.blobs[0].detach().cpu().numpy().astype(np.float32)
            slope = e.constant(values.reshape(self._slope_shape(axes)), "slope")
        e.op("PRelu", [bottoms[0], slope], tops)
