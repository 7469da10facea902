"""ELU and SELU: rectifiers that saturate below zero."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("ELU")
class ELU(Layer):
    """Exponential linear unit: ``y = x`` for x > 0, else ``alpha * (exp(x) - 1)``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        alpha (1).
    Gradient:
        at x = 0 it is alpha.
    ONNX:
        Elu.
    Caffe source:
        elu_layer.cpp
    Differences:
        none.
    """

    param_field = "elu_param"

    def forward(self, x: Tensor) -> Tensor:
        """Rectify."""
        return functional.elu(x, self.p.alpha)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Elu."""
        e.op("Elu", bottoms, tops, alpha=float(self.p.alpha))


@register("SELU")
class SELU(Layer):
    """Scaled ELU: ``y = lambda * x`` for x > 0, else ``lambda * alpha * (exp(x) - 1)``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        lambda (1.050700987), alpha (1.67326324).
    Gradient:
        at x = 0 it is lambda * alpha.
    ONNX:
        Selu.
    Caffe source:
        selu_layer.cpp of several forks
    Differences:
        none.
    """

    param_field = "selu_param"

    def configure(self) -> None:
        """Read the factor, whose name is a Python keyword."""
        self.factor = float(getattr(self.p, "lambda"))

    def forward(self, x: Tensor) -> Tensor:
        """Rectify and scale."""
        return functional.elu(x, self.p.alpha) * self.factor

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Selu."""
        e.op("Selu", bottoms, tops, alpha=float(self.p.alpha), gamma=self.factor)
