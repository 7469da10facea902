"""LSTMUnit: one cell of an LSTM whose gates are computed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.lstm import cell, emit_cell
from caffe_bridge.layers.registry import register


@register("LSTMUnit")
class LSTMUnit(Layer):
    """LSTM cell: ``c = cont sigmoid(f) c_prev + sigmoid(i) tanh(g)``, ``h = sigmoid(o) tanh(c)``.

    Bottoms:
        c_prev: (1, N, H).
        gates: (1, N, 4 H), the sums of the gates i, f, o, g in this order.
        cont: (1, N), 0 where a sequence starts, else 1.
    Tops:
        c: (1, N, H).
        h: (1, N, H).
    Parameters:
        none.
    Gradient:
        none for cont.
    ONNX:
        Split, Sigmoid, Tanh, Mul, Add.
    Caffe source:
        lstm_unit_layer.cpp
    Differences:
        the gradient for a cont that is neither 0 nor 1 is the true one.
    """

    bottoms = exactly(3)
    tops = exactly(2)
    no_gradient_bottoms = (2,)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Twice the shape of c_prev."""
        c, gates, cont = (tuple(shape) for shape in shapes)
        if len(c) != 3 or c[0] != 1 or gates != (1, c[1], 4 * c[2]) or cont != c[:2]:
            self.fail(
                f"bottoms of shapes {c}, {gates} and {cont} do not fit; give c_prev (1, N, H), "
                "gates (1, N, 4 H) and cont (1, N)."
            )
        return [c, c]

    def forward(self, c: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        """Cell state and hidden output."""
        return cell(gates, cont.detach()[..., None], c)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """The cell in nodes."""
        (flag,) = e.op("Unsqueeze", [bottoms[2], e.constant(np.array([2], np.int64), "last")])
        units = int(e.shape(bottoms[0])[2])
        emit_cell(e, bottoms[1], flag, bottoms[0], units, (tops[0], tops[1]))
