"""LabelSpecificAdd: the additive margin of the true class's score."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.loss import class_labels
from caffe_bridge.layers.registry import register


@register("LabelSpecificAdd")
class LabelSpecificAdd(Layer):
    """In the TRAIN phase ``y = x + bias`` for the true class's x above -bias, else ``y = x``.

    Bottoms:
        x: (N, ...) scores; the C values of a row are the classes.
        label: N class numbers; truncated to integers.
    Tops:
        y: x's shape.
    Parameters:
        bias (0): negative for a margin; transform_test: no effect in the TEST phase, as there.
    Gradient:
        1.
    ONNX:
        nothing, y is x; refused in the TRAIN phase.
    Caffe source:
        label_specific_add_layer.cpp of happynear/caffe-windows
    Differences:
        a label outside the classes is an error (there, other memory is changed).
    """

    param_field = "label_specific_add_param"
    bottoms = exactly(2)
    no_gradient_bottoms = (1,)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shape of x."""
        x, label = tuple(shapes[0]), tuple(shapes[1])
        if not x or math.prod(label) != x[0]:
            self.fail(f"bottom 1 of shape {label} must have a label for each row of {x}.")
        return [x]

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Add to the true class's scores."""
        if not self.train_phase:
            return x.view_as(x)
        rows = x.reshape(x.shape[0], -1)
        whole, _ = class_labels(self, label.reshape(-1, 1), rows.shape[1])
        bias = float(self.p.bias)
        own = rows.gather(1, whole)
        step = torch.where(own > -bias, bias, 0.0).to(x)
        return (rows + torch.zeros_like(rows).scatter(1, whole, step)).reshape(x.shape)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """The scores themselves."""
        if self.train_phase:
            self.refuse("changes scores while training only; export the net of the TEST phase.")
        e.alias(bottoms[0], tops[0])
