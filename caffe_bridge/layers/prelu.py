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
        ``operator`` (portable): PRelu. ``relus``: ``Relu(x) - a Relu(-x)``. ``leaky`` (one slope
        for all): LeakyRelu. ``depthwise`` (4 axes): ``DW(x; a) + DW(Relu(x); 1 - a)`` with
        depthwise 1x1 convolutions, which stay in onnxruntime's blocked layout.
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

    def forms(self, shapes: Sequence[Shape]) -> tuple[str, ...]:
        """See the class."""
        known = ["operator", "relus"]
        if len(shapes[0]) == 4 and not self.p.channel_shared:
            known.append("depthwise")
        if self.p.channel_shared:
            known.append("leaky")
        return tuple(known)

    def form_for(self, target: str, shapes: Sequence[Shape]) -> str:
        """The form of a target."""
        known = self.forms(shapes)
        if target == "ort-cpu" and "leaky" in known:
            return "leaky"
        return "depthwise" if target == "ort-cpu" and "depthwise" in known else "operator"

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """PRelu with slopes that broadcast from the channel axis, or another form."""
        axes = len(e.shape(bottoms[0]))
        if e.form == "leaky":
            e.op("LeakyRelu", bottoms, tops, alpha=float(self.blobs[0].detach()))
            return
        if e.form == "depthwise":
            self._emit_depthwise(e, bottoms[0], tops)
            return
        if axes == 2 or self.p.channel_shared:
            slope = e.blob(0)
        else:
            values = self.blobs[0].detach().cpu().numpy().astype(np.float32)
            slope = e.constant(values.reshape(self._slope_shape(axes)), "slope")
        if e.form != "relus":
            e.op("PRelu", [bottoms[0], slope], tops)
            return
        (positive,) = e.op("Relu", bottoms)
        (mirrored,) = e.op("Neg", bottoms)
        (negative,) = e.op("Relu", [mirrored])
        (scaled,) = e.op("Mul", [negative, slope])
        e.op("Sub", [positive, scaled], tops)

    def _emit_depthwise(self, e: Emitter, x: str, tops: Sequence[str]) -> None:
        """``a x + (1 - a) max(x, 0)``."""
        slopes = self.blobs[0].detach().cpu().numpy().astype(np.float32).reshape(-1, 1, 1, 1)
        (positive,) = e.op("Relu", [x])
        terms = [
            e.op("Conv", [source, e.constant(weight, hint)], kernel_shape=[1, 1],
                 group=len(slopes))[0]
            for source, weight, hint in ((x, slopes, "slope"), (positive, 1 - slopes, "rest"))
        ]  # fmt: skip
        e.op("Add", terms, tops)
