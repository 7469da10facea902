"""Sigmoid, TanH, Swish, BNLL and Mish: smooth activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("Sigmoid")
class Sigmoid(Layer):
    """Logistic function: ``y = 1 / (1 + exp(-x))``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    ONNX:
        Sigmoid.
    Caffe source:
        sigmoid_layer.cpp
    Differences:
        none.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Squash to (0, 1)."""
        return torch.sigmoid(x)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Sigmoid."""
        e.op("Sigmoid", bottoms, tops)


@register("TanH")
class TanH(Layer):
    """Hyperbolic tangent: ``y = tanh(x)``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    ONNX:
        Tanh.
    Caffe source:
        tanh_layer.cpp
    Differences:
        none.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Squash to (-1, 1)."""
        return torch.tanh(x)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Tanh."""
        e.op("Tanh", bottoms, tops)


@register("Swish")
class Swish(Layer):
    """Value gated by its own sigmoid: ``y = x * sigmoid(beta * x)``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    Parameters:
        beta (1).
    ONNX:
        Mul (when beta is not 1), Sigmoid, Mul.
    Caffe source:
        swish_layer.cpp
    Differences:
        none.
    """

    param_field = "swish_param"

    def forward(self, x: Tensor) -> Tensor:
        """Gate."""
        return x * torch.sigmoid(x * self.p.beta)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Sigmoid and product."""
        inside = bottoms[0]
        if self.p.beta != 1:
            (inside,) = e.op("Mul", [inside, e.constant(np.array(self.p.beta, np.float32), "beta")])
        (gate,) = e.op("Sigmoid", [inside])
        e.op("Mul", [bottoms[0], gate], tops)


@register("BNLL")
class BNLL(Layer):
    """Binomial normal log likelihood: ``y = log(1 + exp(x))``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    ONNX:
        Softplus.
    Caffe source:
        bnll_layer.cpp
    Differences:
        none.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Soft rectifier."""
        return torch.logaddexp(x, x.new_zeros(()))

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Softplus."""
        e.op("Softplus", bottoms, tops)


@register("Mish")
class Mish(Layer):
    """Value gated by the tangent of its softplus: ``y = x * tanh(log(1 + exp(x)))``.

    Bottoms:
        x: any shape.
    Tops:
        y: the same shape; may be in place.
    ONNX:
        Softplus, Tanh, Mul.
    Caffe source:
        mish_layer.cpp of the YOLO forks
    Differences:
        none.
    """

    param_field = "mish_param"

    def forward(self, x: Tensor) -> Tensor:
        """Gate."""
        return x * torch.tanh(torch.logaddexp(x, x.new_zeros(())))

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Softplus, Tanh and product."""
        (soft,) = e.op("Softplus", bottoms)
        (gate,) = e.op("Tanh", [soft])
        e.op("Mul", [bottoms[0], gate], tops)
