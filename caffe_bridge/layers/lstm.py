"""LSTM: long short-term memory over a sequence."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional

from caffe_bridge.layers.base import Emitter
from caffe_bridge.layers.recurrent import Recurrent
from caffe_bridge.layers.registry import register


def cell(gates: Tensor, cont: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One LSTM cell.

    Args:
        gates: (..., 4 H), the sums of the gates i, f, o, g in this order.
        cont: (..., 1), 0 where a sequence starts.
        c: (..., H), the cell state before.

    Returns:
        The cell state ``cont f c + i g`` and the hidden output ``o tanh(c)``.
    """
    i, f, o, g = gates.chunk(4, -1)
    after = cont * f.sigmoid() * c + i.sigmoid() * g.tanh()
    return after, o.sigmoid() * after.tanh()


def emit_cell(
    e: Emitter, gates: str, cont: str, c: str, units: int, tops: tuple[str, str] | None = None
) -> tuple[str, str]:
    """The nodes of :func:`cell` on values (1, N, ...); returns cell state and hidden output."""
    sizes = e.constant(np.full(4, units, np.int64), "gates")
    i, f, o, g = e.op("Split", [gates, sizes], 4, axis=2)
    i, f, o = (e.op("Sigmoid", [gate])[0] for gate in (i, f, o))
    (g,) = e.op("Tanh", [g])
    (kept,) = e.op("Mul", [f, cont])
    (kept,) = e.op("Mul", [kept, c])
    (new,) = e.op("Mul", [i, g])
    (after,) = e.op("Add", [kept, new], [tops[0]] if tops else 1)
    (squashed,) = e.op("Tanh", [after])
    (hidden,) = e.op("Mul", [o, squashed], [tops[1]] if tops else 1)
    return after, hidden


@register("LSTM")
class LSTM(Recurrent):
    """Long short-term memory with gates ``W_xc x + b_c + W_xc_static x_static + W_hc (cont h)``.

    ``c' = cont sigmoid(f) c + sigmoid(i) tanh(g)``, ``h' = sigmoid(o) tanh(c')``.

    Bottoms:
        x: (T, N, ...), T time steps of N streams; T is fixed.
        cont: (T, N), 0 where a stream starts a new sequence, else 1.
        x_static: optional, (N, ...), the same input at every step.
        h_0, c_0: (1, N, num_output) each, only with expose_hidden.
    Tops:
        h: (T, N, num_output).
        h_T, c_T: (1, N, num_output) each, only with expose_hidden.
    Blobs:
        W_xc: (4 num_output, I), rows in the order of the gates i, f, o, g; ``weight_filler``.
        b_c: (4 num_output,), ``bias_filler``.
        W_xc_static: (4 num_output, I_static), only with x_static.
        W_hc: (4 num_output, num_output).
    Parameters:
        num_output, expose_hidden (false): without it the state of a pass is the start of the next
        one, zeros at first; reset_state forgets it.
    Gradient:
        inside one pass only; none for cont, and none through exposed states, first or last.
    ONNX:
        MatMul over all steps, then Split and the cell of each step unrolled; without expose_hidden
        the model starts from zeros in every run.
    Caffe source:
        lstm_layer.cpp, lstm_unit_layer.cpp, recurrent_layer.cpp
    Differences:
        a kept state of another number of streams is forgotten; the gradient for a cont that is
        neither 0 nor 1 is the true one.
    """

    states = 2
    rows = 4

    def step(self, drive: Tensor, cont: Tensor, state: list[Tensor]) -> list[Tensor]:
        """One cell."""
        h, c = state
        gates = drive + functional.linear(cont * h, self.blobs[self.hidden])
        after, hidden = cell(gates, cont, c)
        return [hidden, after]

    def emit_step(self, e: Emitter, drive: str, cont: str, state: list[str]) -> list[str]:
        """One cell in nodes."""
        (h,) = e.op("Mul", [state[0], cont])
        (gates,) = e.op("Add", [drive, self.emit_linear(e, h, self.hidden)])
        after, hidden = emit_cell(e, gates, cont, state[1], self.units)
        return [hidden, after]
