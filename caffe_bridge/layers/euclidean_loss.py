"""EuclideanLoss: half the mean squared distance of rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter
from caffe_bridge.layers.loss import Loss, check_same, scalar
from caffe_bridge.layers.registry import register


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """Squared distance: ``sum (a - b)^2 / (2 N)``.

    Bottoms:
        a: (N, ...).
        b: (N, ...) with as many values in a row.
    Tops:
        loss: ().
    Parameters:
        none.
    Gradient:
        ``(a - b) / N`` for a and its negative for b; both bottoms get one.
    ONNX:
        Sub, Mul, ReduceSum over the rows' axes, ReduceMean over the rows, Mul.
    Caffe source:
        euclidean_loss_layer.cpp
    Differences:
        none.
    """

    no_gradient_bottoms = ()

    def check_bottoms(self, shapes: Sequence[Shape]) -> None:
        """Equal rows."""
        check_same(self, shapes)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Half the mean over the rows of their squared distance."""
        return (a - b.reshape(a.shape)).square().sum() / (2 * a.shape[0])

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Row sums, then their mean: no batch size is needed."""
        shape = e.shape(bottoms[0])
        second = bottoms[1]
        if tuple(e.shape(second)) != tuple(shape):
            second = e.reshape(second, shape)
        (gap,) = e.op("Sub", [bottoms[0], second])
        (square,) = e.op("Mul", [gap, gap])
        if len(shape) > 1:
            square = e.reduce("ReduceSum", square, list(range(1, len(shape))), keepdims=False)
        mean = e.reduce("ReduceMean", square, [0], keepdims=False)
        e.op("Mul", [mean, scalar(e, 0.5, "half")], tops)
