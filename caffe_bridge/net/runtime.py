"""How a net is run: device, number format, memory layout, compilation, determinism.

Mixed precision keeps weights, gradients, losses and everything that sums many numbers in float32:
only the layers of :data:`LOW` compute in the low format, those of :data:`KEEP` take what comes,
and all others are given float32. Gradients are therefore float32 before they are clipped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from caffe_bridge.errors import BackendError
from caffe_bridge.graph import NetSpec
from caffe_bridge.layers.base import Layer
from caffe_bridge.layers.checks import deferred
from caffe_bridge.log import Sink, silent
from caffe_bridge.net.build import Built
from caffe_bridge.net.compiled import CompiledPass, Pass, require_compiler
from caffe_bridge.net.cuda_graph import RecordedPass, Settling
from caffe_bridge.net.net import Net

#: Layers whose products run in the low format: their sums are accumulated in float32 inside.
LOW = frozenset({"Convolution", "ConvolutionDepthwise", "Deconvolution", "InnerProduct"})
#: Layers that move, choose or clamp numbers and so lose nothing in the format they are given.
KEEP = frozenset({"Concat", "Dropout", "Flatten", "Pooling", "ReLU", "Reshape", "Slice", "Split"})
AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Settings of a run; the defaults are plain float32 on the CPU.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        amp: ``""``, ``bf16`` or ``fp16``.
        channels_last: keep images and filters as NHWC in memory; values and files do not change.
        compile: hand forward passes to torch.compile.
        cuda_graph: record forward and backward once and replay them; fixed shapes only.
        deterministic: use only kernels that give the same numbers each time.
        data_workers: processes that make each data layer's batches; see :class:`Net`.
    """

    device: str = "cpu"
    amp: str = ""
    channels_last: bool = False
    compile: bool = False
    cuda_graph: bool = False
    deterministic: bool = False
    data_workers: int | None = None

    def prepare(self) -> None:
        """Check that this machine can do it, and set torch's global switches.

        Raises:
            BackendError: unknown or missing device, unknown format, or settings that exclude
                each other.
        """
        kind, _, number = self.device.partition(":")
        if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
            raise BackendError(f"device '{self.device}' is not known; use cpu, cuda or cuda:N.")
        if kind == "cuda":
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if int(number or 0) >= count:
                raise BackendError(
                    f"device '{self.device}': this torch sees {count} CUDA devices; use cpu or "
                    "install a CUDA build of torch with its driver."
                )
        if self.amp and self.amp not in AMP:
            raise BackendError(f"amp '{self.amp}' is not known; use {' or '.join(AMP)}.")
        if self.cuda_graph and kind != "cuda":
            raise BackendError("CUDA graphs need a CUDA device; leave cuda_graph out on the CPU.")
        if self.cuda_graph and self.compile:
            raise BackendError("compile and cuda_graph exclude each other; choose one.")
        if self.compile:
            require_compiler(kind)
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        elif kind == "cuda":
            torch.backends.cudnn.benchmark = True


class RuntimeNet(Net):
    """A net that runs as a :class:`Runtime` says.

    Compiled, recorded or with a scaled loss, a training pass keeps only the outputs and the fed
    blobs.

    Args:
        spec: the filtered net.
        runtime: settings; ``prepare`` has been called.
        built: its layers, when they have been made already.
        log: hears which layers are not compiled.
    """

    def __init__(
        self, spec: NetSpec, runtime: Runtime, built: Built | None = None, log: Sink = silent
    ) -> None:
        super().__init__(spec, built=built, data_workers=runtime.data_workers)
        self.runtime = runtime
        #: Multiplies the loss before the backward pass (fp16 only).
        self.loss_scale = 1.0
        self.fed: dict[str, Tensor] = {}
        self.to(runtime.device)
        if runtime.channels_last:
            for layer in self.built.layers:
                for blob in layer.blobs if layer.type_name in LOW else ():
                    blob.data = self._laid_out(blob.data)
        #: What a training step runs: the loss and the outputs of a batch.
        self._settling = Settling(self.built.layers) if runtime.cuda_graph else None
        self.forward_pass: Pass = CompiledPass(self, log) if runtime.compile else self.training_pass

    @property
    def static_gradients(self) -> bool:
        """Whether gradients must stay at their place in memory."""
        return self.runtime.cuda_graph

    @property
    def partial(self) -> bool:
        """Whether a training pass keeps only the outputs and what was fed."""
        return self.runtime.compile or self.runtime.cuda_graph or self.loss_scale != 1

    def _laid_out(self, value: Tensor) -> Tensor:
        if self.runtime.channels_last and value.ndim == 4:
            return value.contiguous(memory_format=torch.channels_last)
        return value

    def compute(self, layer: Layer, bottoms: list[Tensor]) -> list[Tensor]:
        """Run a layer in the number format that suits its type."""
        if not self.runtime.amp or not bottoms:
            return layer.run(bottoms)
        low = AMP[self.runtime.amp]
        if layer.type_name in LOW:
            with torch.autocast(bottoms[0].device.type, low):
                return layer.run(bottoms)
        if layer.type_name not in KEEP or len({b.dtype for b in bottoms}) > 1:
            bottoms = [b.float() if b.dtype == low else b for b in bottoms]
        return layer.run(bottoms)

    def read(self, feed: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The next batch: what is fed, and what the data layers read, on the device."""
        batch = dict(feed or {})
        for node, layer in zip(self.built.graph.nodes, self.built.layers, strict=True):
            if layer.is_input and layer.has_source and not any(
                value.blob in batch for value in node.outputs
            ):  # fmt: skip
                tops = zip(node.outputs, layer.run([]), strict=True)
                batch.update({value.blob: top for value, top in tops})
        device = torch.device(self.runtime.device)
        return {k: self._laid_out(v.to(device, non_blocking=True)) for k, v in batch.items()}

    def run(self, feed: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """Compute every value of the graph, in the order of ``built.graph.values``."""
        self.fed = self.read(feed)
        return super().run(self.fed)

    def training_pass(self, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The loss of a batch, and the outputs followed by the verdict of the deferred checks."""
        with deferred() as verdicts:
            values = super().run(batch)
        return self.results(values, verdicts)

    def results(self, values: list[Tensor], verdicts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What a training pass gives, from all values and the verdicts so far."""
        weighted = [values[i].sum() * w for i, w in self.built.loss_weights().items()]
        outputs = [values[v.index] for v in self.built.graph.outputs]
        wrong = torch.stack(verdicts).any() if verdicts else torch.zeros((), dtype=torch.bool)
        loss = torch.stack(weighted).sum() if weighted else torch.zeros(())
        return loss, [*outputs, wrong]

    def forward_backward(self, feed: Mapping[str, Tensor] | None = None) -> float:
        """One forward and backward pass; returns the total loss, not scaled."""
        if not self.partial:
            return super().forward_backward(feed)
        self.values = {}
        self.fed = self.read(feed)
        loss, outputs = self.step(self.fed)
        names = [v.blob for v in self.built.graph.outputs]
        self.values = {**self.fed, **{k: v.detach() for k, v in zip(names, outputs, strict=True)}}
        return float(loss.detach())

    def step(self, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Forward and backward on a batch; the loss and the outputs.

        Raises:
            BackendError: a layer's state would be lost in a CUDA graph.
        """
        if self._settling and self._settling.done:
            loss, outputs = self._replay(batch)
        else:
            loss, outputs = self.forward_pass(batch)
            if loss.requires_grad:
                (loss * self.loss_scale).backward()
            if self._settling:
                self._settling.look()
        *outputs, wrong = outputs
        if bool(wrong):
            self.replay()  # the layer that found a wrong value says so
        return loss, outputs

    def _replay(self, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        if not hasattr(self, "_recorded"):
            self._recorded = RecordedPass(self.training_pass, self.learnable, batch)
        return self._recorded(batch, self.loss_scale)

    @torch.no_grad()
    def replay(self) -> dict[str, Tensor]:
        """Every blob for the batch of the last pass, computed layer by layer."""
        values = super().run(self.fed)
        return {b: values[v.index] for b, v in self.built.graph.blobs().items()}
