"""What LSTM and RNN share: bottoms, the state between passes, the unrolled ONNX form.

Caffe source: recurrent_layer.cpp, which unrolls a net over the time steps.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer, between


class Recurrent(Layer):
    """Base of the layers that run over time.

    Class variables:
        states: how many hidden blobs a step hands to the next.
        rows: rows of the input weights for each output unit.
    """

    param_field = "recurrent_param"
    bottoms = between(2, 5)
    tops = between(1, 3)
    no_gradient_bottoms = (1,)
    carried = ("state",)
    states: ClassVar[int] = 1
    rows: ClassVar[int] = 1

    def configure(self) -> None:
        """Check num_output and the numbers of bottoms and tops."""
        self.units = int(self.p.num_output)
        self.steps: int | None = None
        self.state: list[Tensor] | None = None
        if self.units < 1:
            self.fail("num_output is missing or zero; give the number of units.")
        exposed = self.states if self.p.expose_hidden else 0
        found = len(self.spec.bottoms) - exposed
        if found not in (2, 3) or len(self.spec.tops) != 1 + exposed:
            self.fail(
                f"with expose_hidden {str(bool(exposed)).lower()} it takes x, cont, perhaps "
                f"x_static and {exposed} first states, and makes 1 + {exposed} tops; found "
                f"{len(self.spec.bottoms)} bottoms and {len(self.spec.tops)} tops."
            )
        self.static = found == 3

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """(T, N, num_output), and (1, N, num_output) for each exposed state."""
        x, cont = tuple(shapes[0]), tuple(shapes[1])
        if len(x) < 3:
            self.fail(f"bottom 0 of shape {x} must have the axes (time, streams, ...).")
        if self.steps not in (None, x[0]):
            self.fail(
                f"was built for {self.steps} time steps, bottom 0 now has {x[0]}; "
                "the number of steps is fixed."
            )
        if cont != x[:2]:
            self.fail(f"cont (bottom 1) has shape {cont}, expected {x[:2]} as of bottom 0 {x}.")
        if self.static and (len(shapes[2]) < 2 or shapes[2][0] != x[1]):
            self.fail(
                f"x_static (bottom 2) has shape {tuple(shapes[2])}; it needs {x[1]} rows of values."
            )
        state = (1, x[1], self.units)
        for position in range(2 + self.static, len(shapes)):
            if tuple(shapes[position]) != state:
                self.fail(
                    f"first state (bottom {position}) has shape {tuple(shapes[position])}, "
                    f"expected {state}."
                )
        return [(*x[:2], self.units), *[state] * (len(self.spec.tops) - 1)]

    def setup(
        self,
        shapes: Sequence[Shape],
        generator: torch.Generator | None = None,
        fill_blobs: bool = True,
    ) -> None:
        """Create the blobs and fix the number of time steps."""
        super().setup(shapes, generator, fill_blobs)
        self.steps = int(shapes[0][0])

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Input weight and bias, static weight if there is x_static, hidden weight."""
        rows = self.rows * self.units
        weight, bias = self.p.weight_filler, self.p.bias_filler
        specs = [
            BlobSpec((rows, math.prod(shapes[0][2:])), weight, "weight"),
            BlobSpec((rows,), bias, "bias"),
        ]
        if self.static:
            specs.append(BlobSpec((rows, math.prod(shapes[2][1:])), weight, "weight"))
        return [*specs, BlobSpec((rows, self.units), weight, "weight")]

    @property
    def hidden(self) -> int:
        """Index of the hidden weight blob."""
        return 3 if self.static else 2

    def reset_state(self) -> None:
        """Forget the state that the last forward pass left."""
        self.state = None

    @abstractmethod
    def step(self, drive: Tensor, cont: Tensor, state: list[Tensor]) -> list[Tensor]:
        """One time step.

        Args:
            drive: (N, rows * num_output), the part that comes from the inputs.
            cont: (N, 1), 0 where a sequence starts.
            state: (N, num_output) each; the first is the hidden output.

        Returns:
            The next state.
        """

    def output(self, hidden: Tensor) -> Tensor:
        """Top 0 from the hidden outputs of all steps (T, N, num_output)."""
        return hidden

    def forward(self, x: Tensor, cont: Tensor, *rest: Tensor) -> list[Tensor]:
        """Run over the time steps, from the given or the last pass's state."""
        drive = functional.linear(x.flatten(2), self.blobs[0], self.blobs[1])
        if self.static:
            drive = drive + functional.linear(rest[0].flatten(1), self.blobs[2])
        if self.p.expose_hidden:
            state = [first[0].detach() for first in rest[self.static :]]
        elif self.state is not None and self.state[0].shape == (x.shape[1], self.units):
            state = [last.to(x) for last in self.state]
        else:
            state = [x.new_zeros(x.shape[1], self.units) for _ in range(self.states)]
        flags = cont.detach()[..., None]
        hidden = []
        for now, flag in zip(drive, flags, strict=True):
            state = self.step(now, flag, state)
            hidden.append(state[0])
        tops = [self.output(torch.stack(hidden))]
        if self.p.expose_hidden:
            return tops + [last.detach()[None] for last in state]
        self.state = [last.detach() for last in state]
        return tops

    @abstractmethod
    def emit_step(self, e: Emitter, drive: str, cont: str, state: list[str]) -> list[str]:
        """One time step on values (1, N, ...); returns the next state."""

    def emit_output(self, e: Emitter, hidden: list[str], top: str) -> None:
        """Top 0 from the hidden outputs (1, N, num_output) of the steps."""
        e.op("Concat", hidden, [top], axis=0)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """All time steps one after the other; without exposed states the first ones are zero."""
        x = bottoms[0]
        if len(e.shape(x)) > 3:
            (x,) = e.op("Reshape", [x, e.constant(np.array([0, 0, -1], np.int64), "flat")])
        drive = self.emit_linear(e, x, 0, 1)
        if self.static:
            source = bottoms[2]
            if len(e.shape(source)) > 2:
                (source,) = e.op("Flatten", [source], axis=1)
            (drive,) = e.op("Add", [drive, self.emit_linear(e, source, 2)])
        (flags,) = e.op("Unsqueeze", [bottoms[1], e.constant(np.array([2], np.int64), "last")])
        steps = int(e.shape(bottoms[0])[0])
        each = e.constant(np.ones(steps, np.int64), "steps")
        drives = e.op("Split", [drive, each], steps, axis=0)
        conts = e.op("Split", [flags, each], steps, axis=0)
        if self.p.expose_hidden:
            state = list(bottoms[2 + self.static :])
        else:
            state = [e.constant(np.zeros((1, 1, self.units), np.float32), "start")] * self.states
        hidden = []
        for now, flag in zip(drives, conts, strict=True):
            state = self.emit_step(e, now, flag, state)
            hidden.append(state[0])
        for last, top in zip(state, tops[1:], strict=False):
            e.op("Identity", [last], [top])
        self.emit_output(e, hidden, tops[0])

    def emit_linear(self, e: Emitter, source: str, weight: int, bias: int | None = None) -> str:
        """``source`` times a transposed weight blob, plus a bias blob."""
        (turned,) = e.op("Transpose", [e.blob(weight)], perm=[1, 0])
        (product,) = e.op("MatMul", [source, turned])
        return product if bias is None else e.op("Add", [product, e.blob(bias)])[0]

    def macs(self, shapes: Sequence[Shape]) -> int:
        """Weights times the rows that they are applied to."""
        steps, streams = shapes[0][:2]
        total = 0
        for index, blob in enumerate(self.blob_specs(shapes)):
            if blob.role == "weight":
                once = self.static and index == 2
                total += math.prod(blob.shape) * streams * (1 if once else steps)
        return total
