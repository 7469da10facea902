"""SoftmaxWithLossOHEM: SoftmaxWithLoss under the name that it has in Intel's R-FCN."""

from __future__ import annotations

from caffe_bridge.layers.registry import register
from caffe_bridge.layers.softmax_with_loss import SoftmaxWithLoss


@register("SoftmaxWithLossOHEM")
class SoftmaxWithLossOHEM(SoftmaxWithLoss):
    """Softmax and cross entropy, with the cost of each position for choosing hard ones.

    Bottoms:
        x: (*outer, C, *inner) scores; label: outer * inner class numbers in any shape.
    Tops:
        loss: (); p: optional, the probabilities, shaped like x; parts: optional, the cost of each
        position, shaped like label, (N, 1, 1, 1) for one axis. No gradient comes back through the
        last two.
    Parameters:
        those of SoftmaxWithLoss.
    Gradient:
        that of SoftmaxWithLoss.
    ONNX:
        as SoftmaxWithLoss; Where and ReduceSum for the parts.
    Caffe source:
        softmax_loss_ohem_layer.cpp of Intel's Caffe
    Differences:
        PRE_FIXED works too (there it ends the program).
    """
