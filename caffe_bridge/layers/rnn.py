"""RNN: the plain recurrent net over a sequence."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter
from caffe_bridge.layers.recurrent import Recurrent
from caffe_bridge.layers.registry import register


@register("RNN")
class RNN(Recurrent):
    """Recurrent net ``h' = tanh(W_hh (cont h) + W_xh x + b_h + W_xh_static x_static)``.

    The top is not h but ``o = tanh(W_ho h' + b_o)``.

    Bottoms:
        x: (T, N, ...), T time steps of N streams; T is fixed.
        cont: (T, N), 0 where a stream starts a new sequence, else 1.
        x_static: optional, (N, ...), the same input at every step.
        h_0: (1, N, num_output), only with expose_hidden.
    Tops:
        o: (T, N, num_output).
        h_T: (1, N, num_output), only with expose_hidden.
    Blobs:
        W_xh: (num_output, I), ``weight_filler``.
        b_h: (num_output,), ``bias_filler``.
        W_xh_static: (num_output, I_static), only with x_static.
        W_hh: (num_output, num_output).
        W_ho: (num_output, num_output).
        b_o: (num_output,), ``bias_filler``.
    Parameters:
        num_output, expose_hidden (false): without it the state of a pass is the start of the next
        one, zeros at first; reset_state forgets it.
    Gradient:
        inside one pass only; none for cont, and none through exposed states, first or last.
    ONNX:
        MatMul over all steps, then each step unrolled; without expose_hidden the model starts
        from zeros in every run.
    Caffe source:
        rnn_layer.cpp, recurrent_layer.cpp
    Differences:
        a kept state of another number of streams is forgotten.
    """

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Those of the recurrence, then weight and bias of the output."""
        size = self.units
        return [
            *super().blob_specs(shapes),
            BlobSpec((size, size), self.p.weight_filler, "weight"),
            BlobSpec((size,), self.p.bias_filler, "bias"),
        ]

    def step(self, drive: Tensor, cont: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The next hidden state."""
        return [(drive + functional.linear(cont * state[0], self.blobs[self.hidden])).tanh()]

    def output(self, hidden: Tensor) -> Tensor:
        """The output units of all steps."""
        weight, bias = self.blobs[self.hidden + 1], self.blobs[self.hidden + 2]
        return functional.linear(hidden, weight, bias).tanh()

    def emit_step(self, e: Emitter, drive: str, cont: str, state: list[str]) -> list[str]:
        """The next hidden state in nodes."""
        (h,) = e.op("Mul", [state[0], cont])
        (total,) = e.op("Add", [drive, self.emit_linear(e, h, self.hidden)])
        return e.op("Tanh", [total])

    def emit_output(self, e: Emitter, hidden: list[str], top: str) -> None:
        """The output units of all steps at once."""
        (joined,) = e.op("Concat", hidden, axis=0)
        total = self.emit_linear(e, joined, self.hidden + 1, self.hidden + 2)
        e.op("Tanh", [total], [top])
