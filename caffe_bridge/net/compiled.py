"""The training pass of a net as one graph of torch.compile, or as a few with layers between them.

A layer that torch cannot trace (it runs Python code of a user, looks at values or makes tops whose
size depends on them) runs as it is; the layers before, between and after such layers are compiled.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from caffe_bridge.errors import BackendError, BridgeError
from caffe_bridge.layers.base import Layer
from caffe_bridge.layers.checks import deferred
from caffe_bridge.log import Sink, glog_line

if TYPE_CHECKING:
    from caffe_bridge.net.runtime import RuntimeNet

#: Layers that torch may not trace: user code, files, a count that each pass changes, and loops over
#: time, of which it would compile every step.
PLAIN = frozenset(
    {"DetectionEvaluate", "HDF5Output", "LSTM", "MarginInnerProduct", "Python", "RNN"}
)
_NUMBER = itertools.count()
Batch = dict[str, Tensor]
Pass = Callable[[Batch], tuple[Tensor, list[Tensor]]]


def require_compiler(device: str) -> None:
    """Check that torch.compile can build kernels for the processor; CUDA's come from Triton.

    Raises:
        BackendError: no C++ compiler.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    if device == "cpu" and not any(map(shutil.which, names)):
        raise BackendError(
            f"compile needs a C++ compiler, and there is no {' or '.join(names)}; install g++ or "
            "name one in the environment variable CXX, or leave --compile out."
        )


@dataclass
class Piece:
    """Layers that run together: which values go in and come out, and whether they are compiled."""

    nodes: range
    reads: list[int]
    keeps: list[int]
    run: Callable[[dict[int, Tensor], Batch], tuple[list[Tensor], list[Tensor]]]
    compiled: bool


class CompiledPass:
    """A training pass that compiles itself when it first runs.

    Args:
        net: the net; a batch of other shapes is compiled anew.
        log: hears which layers run as they are.
        backend: what torch.compile hands the graphs to.
    """

    def __init__(
        self, net: RuntimeNet, log: Sink, backend: str | Callable[..., Any] = "inductor"
    ) -> None:
        self.net, self.log, self.backend = net, log, backend
        logging.getLogger("torch._dynamo.convert_frame").addFilter(_told_apart)
        self.pieces: list[Piece] = []
        self.whole: Pass | None = None
        if not any(map(_plain, net.built.layers)):
            self.whole = _compile(lambda batch: net.training_pass(batch), backend)

    def __call__(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """The loss and the outputs, as the net's ``training_pass``."""
        if self.whole is not None:
            try:
                return self.whole(batch)
            except BridgeError:
                raise
            except Exception:  # torch raises many kinds; each layer is now tried by itself
                self.whole = None
        values: list[Tensor] = [torch.empty(0)] * len(self.net.built.graph.values)
        verdicts: list[Tensor] = []
        if not self.pieces:
            self.pieces = self._tried(values, batch, verdicts)
            return self.net.results(values, verdicts)
        for piece in self.pieces:
            error = self._run(piece, values, batch, verdicts)
            if error is not None:
                self._say(
                    f"{len(piece.nodes)} layers from {self._label(piece.nodes[0])} on run as they "
                    f"are, torch cannot compile them together ({_reason(error)})"
                )
        return self.net.results(values, verdicts)

    def _run(
        self, piece: Piece, values: list[Tensor], batch: Batch, verdicts: list[Tensor]
    ) -> Exception | None:
        """Run one piece; when it does not compile it runs as it is, now and from now on."""
        failure = None
        if piece.compiled:
            try:
                with warnings.catch_warnings():
                    # Torch looks whether what comes from the layers before has a gradient.
                    warnings.filterwarnings("ignore", "The .grad attribute", UserWarning)
                    made, found = piece.run({i: values[i] for i in piece.reads}, batch)
            except BridgeError:
                raise
            except Exception as error:
                failure, piece.compiled = error, False
            else:
                verdicts += found
                for index, value in zip(piece.keeps, made, strict=True):
                    values[index] = value
        if not piece.compiled:
            self.net.advance(values, batch, piece.nodes)
        return failure

    def _tried(self, values: list[Tensor], batch: Batch, verdicts: list[Tensor]) -> list[Piece]:
        """Run each layer by itself, compiled where torch can; the pieces that follow from that."""
        able = []
        for index, layer in enumerate(self.net.built.layers):
            one = self._piece(range(index, index + 1), not _plain(layer), "aot_eager")
            before = _numbers(layer)
            self._run(one, values, batch, verdicts)
            able.append(one.compiled and _numbers(layer) == before)
        pieces = [self._piece(nodes, kind, self.backend) for nodes, kind in _runs(able)]
        plain = [self._label(index) for index, kind in enumerate(able) if not kind]
        if plain:
            self._say(
                f"{len(plain)} of {len(able)} layers run as they are, torch cannot trace them: "
                f"{', '.join(plain[:5])}{', ...' if len(plain) > 5 else ''}; the others are "
                f"compiled in {sum(piece.compiled for piece in pieces)} pieces"
            )
        return pieces

    def _piece(self, nodes: range, compiled: bool, backend: str | Callable[..., Any]) -> Piece:
        net, graph = self.net, self.net.built.graph
        wanted = {v.index for v in graph.outputs} | set(net.built.loss_weights())
        reads = {v.index for i in nodes for v in graph.nodes[i].inputs if v.producer not in nodes}
        keeps = [
            v.index
            for i in nodes
            for v in graph.nodes[i].outputs
            if v.index in wanted or any(reader not in nodes for reader in v.consumers)
        ]

        def run(given: dict[int, Tensor], batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
            values: list[Tensor] = [torch.empty(0)] * len(graph.values)
            for index, value in given.items():
                values[index] = value
            with deferred() as verdicts:
                net.advance(values, batch, nodes)
            return [values[index] for index in keeps], verdicts

        return Piece(
            nodes, sorted(reads), keeps, _compile(run, backend) if compiled else run, compiled
        )

    def _label(self, index: int) -> str:
        return self.net.built.graph.nodes[index].layer.label()

    def _say(self, message: str) -> None:
        self.log(glog_line(f"--compile: {message}", "net.cpp:1"))


def _compile(function: Callable[..., Any], backend: str | Callable[..., Any]) -> Any:
    """The function compiled, with a history of its own.

    Torch counts recompilations by code object and remembers shapes by a function's name.
    """
    assert isinstance(function, FunctionType)  # for the type checker
    name = f"{'piece' if function.__name__ == 'run' else 'net'}_{next(_NUMBER)}"
    own = FunctionType(
        function.__code__.replace(co_name=name), function.__globals__, name,
        function.__defaults__, function.__closure__,
    )  # fmt: skip
    return torch.compile(own, fullgraph=True, backend=backend)


def _plain(layer: Layer) -> bool:
    return layer.type_name in PLAIN or layer.open_axis is not None


def _numbers(layer: Layer) -> list[object]:
    """The numbers that the layer hands to its next pass; a change would be compiled anew."""
    values = [getattr(layer, name) for name in layer.carried]
    return [value for value in values if isinstance(value, int | float)]


def _runs(able: list[bool]) -> Iterator[tuple[range, bool]]:
    """Neighbours of one kind together."""
    start = 0
    for end in range(1, len(able) + 1):
        if end == len(able) or able[end] != able[start]:
            yield range(start, end), able[start]
            start = end


def _told_apart(record: logging.LogRecord) -> bool:
    """Drop torch's long account of a recompilation limit; the log has a line for it."""
    return not str(record.msg).startswith("torch._dynamo hit config")


def _reason(error: Exception) -> str:
    if "LimitHit" in type(error).__name__:
        return "something in them changes with every pass"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
