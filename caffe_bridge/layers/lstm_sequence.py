"""Lstm: the layer of junhyukoh's fork, whose sequences follow each other in one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer, between
from caffe_bridge.layers.lstm import cell
from caffe_bridge.layers.registry import register


class _Recur(torch.autograd.Function):
    """``cont (h W^T)``; W's gradient is taken as if cont were 1, h's is not."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, cont: Tensor) -> Tensor:
        ctx.save_for_backward(h, weight, cont)
        return cont * (h @ weight.T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        h, weight, cont = ctx.saved_tensors
        return (cont * grads[0]) @ weight, grads[0].T @ h, None


class _Bound(torch.autograd.Function):
    """The value itself, its gradient kept between -limit and limit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].clamp(-ctx.limit, ctx.limit), None


@register("Lstm")
class LstmSequence(Layer):
    """Long short-term memory with gates i, f, o, g: ``W_x x + b + cont W_h h``.

    ``c' = cont sigmoid(f) c + sigmoid(i) tanh(g)``, ``h' = sigmoid(o) tanh(c')``. Row
    ``t batch_size + n`` is step t of stream n.

    Bottoms:
        x: (T batch_size, ...).
        clip (optional): T batch_size values, 0 where a stream starts a new sequence. With it the
        state of a pass is the start of the next one, zeros at first; without it every pass starts
        from zeros.
    Tops:
        h: (T batch_size, num_output).
    Blobs:
        W_x: (4 num_output, I), rows in the order of the gates; ``weight_filler``.
        W_h: (4 num_output, num_output); ``weight_filler``.
        b: (4 num_output,), ``bias_filler``.
    Parameters:
        num_output, batch_size (1): streams; clipping_threshold (0: none), see below.
    Gradient:
        that of the gates' sums is kept within clipping_threshold at every step; that of W_h has
        the term of the state before also where clip is 0 and the state is not used, as in the fork;
        none for clip and for the last pass's state.
    ONNX:
        LSTM, without clip; refused with clip, which restarts a stream within the sequence.
    Caffe source:
        lstm_layer.cpp, lstm_layer.cu of junhyukoh/caffe-lstm
    Differences:
        with several streams the fork's CPU code reads clip at ``t + n`` and adds the first
        stream's state to all; here every stream has its own, as the formulae say.
    """

    param_field = "lstm_param"
    bottoms = between(1, 2)
    no_gradient_bottoms = (1,)
    carried = ("state",)

    def configure(self) -> None:
        """Check the sizes."""
        self.units, self.streams = int(self.p.num_output), int(self.p.batch_size)
        self.state: tuple[Tensor, Tensor] | None = None
        if self.units < 1 or self.streams < 1:
            self.fail(f"num_output {self.units} and batch_size {self.streams} must be positive.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """(T batch_size, num_output)."""
        x = tuple(shapes[0])
        if not x or x[0] % self.streams:
            self.fail(f"bottom 0 of shape {x} must have a multiple of {self.streams} rows.")
        if len(shapes) > 1 and (not shapes[1] or math.prod(shapes[1]) != x[0]):
            self.fail(f"clip (bottom 1) has shape {tuple(shapes[1])}, expected {x[0]} values.")
        return [(x[0], self.units)]

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Input weight, hidden weight, bias."""
        rows, weight = 4 * self.units, self.p.weight_filler
        return [
            BlobSpec((rows, math.prod(shapes[0][1:])), weight, "weight"),
            BlobSpec((rows, self.units), weight, "weight"),
            BlobSpec((rows,), self.p.bias_filler, "bias"),
        ]

    def reset_state(self) -> None:
        """Forget the state that the last forward pass left."""
        self.state = None

    def forward(self, x: Tensor, clip: Tensor | None = None) -> Tensor:
        """Run over the time steps."""
        drive = functional.linear(x.flatten(1), self.blobs[0], self.blobs[2])
        drive = drive.reshape(-1, self.streams, 4 * self.units)
        if clip is None:
            flags = x.new_ones(len(drive), self.streams, 1)
            flags[:1] = 0
        else:
            flags = (clip.detach() != 0).to(x).reshape(-1, self.streams, 1)
        zero = x.new_zeros(self.streams, self.units)
        h, c = (zero, zero) if clip is None or self.state is None else self.state
        h, c = h.to(x), c.to(x)
        hidden = []
        for now, cont in zip(drive, flags, strict=True):
            gates = now + _Recur.apply(h, self.blobs[1], cont)
            if self.p.clipping_threshold > 0:
                gates = _Bound.apply(gates, float(self.p.clipping_threshold))
            c, h = cell(gates, cont, c)
            hidden.append(h)
        if clip is not None:
            self.state = (h.detach(), c.detach())
        return torch.cat(hidden)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """ONNX's LSTM wants the gates in the order i, o, f, g."""
        if len(bottoms) > 1:
            self.refuse("has clip, which restarts a stream within the sequence; leave it out.")
        shape = e.shape(bottoms[0])
        width = math.prod(shape[1:])
        (x,) = e.op("Reshape", [bottoms[0], _ints(e, [-1, self.streams, width], "steps")])
        first = _ints(e, [0], "first")
        order = np.arange(4 * self.units).reshape(4, -1)[[0, 2, 1, 3]].reshape(-1)
        rows = _ints(e, order, "gates")
        weights = [e.op("Gather", [e.blob(index), rows], axis=0)[0] for index in range(3)]
        none = e.constant(np.zeros(4 * self.units, np.float32), "no_bias")
        (bias,) = e.op("Concat", [weights[2], none], axis=0)
        inputs = [e.op("Unsqueeze", [value, first])[0] for value in (*weights[:2], bias)]
        y = e.op("LSTM", [x, *inputs], 1, hidden_size=self.units)[0]
        e.op("Reshape", [y, _ints(e, [-1, self.units], "rows")], tops)

    def macs(self, shapes: Sequence[Shape]) -> int:
        """Both weights at every row."""
        return shapes[0][0] * 4 * self.units * (math.prod(shapes[0][1:]) + self.units)


def _ints(e: Emitter, value: object, hint: str) -> str:
    return e.constant(np.array(value, np.int64), hint)
