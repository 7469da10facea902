"""Recording a training pass as a CUDA graph and replaying it.

A graph replays the same kernels on the same addresses: batches are copied into the tensors of the
first one, gradients are added at the places where they were at recording, and outputs come out in
one set of tensors. Reading data, the update and everything else stay outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from caffe_bridge.errors import BackendError
from caffe_bridge.layers.base import Layer
from caffe_bridge.net.build import LearnableBlob

#: Passes before recording, in which libraries choose their kernels and buffers.
WARM_UP = 3

#: Passes in which counts that layers keep must have come to rest.
SETTLE = 3

Pass = Callable[[dict[str, Tensor]], tuple[Tensor, list[Tensor]]]


class Settling:
    """Watches, in the passes before recording, what layers hand to their next pass.

    A replay does not run the layers' Python, so that every pass would start from what the recorded
    one was handed. Counts that come to rest, as BatchNorm's, are waited for.

    Args:
        layers: the layers of the net.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = [layer for layer in layers if layer.carried]
        self.passes = 0
        self.done = not self.layers
        self._before = self._carried()

    def _carried(self) -> list[list[object]]:
        return [[getattr(layer, name) for name in layer.carried] for layer in self.layers]

    def look(self) -> None:
        """Compare with the last look; called after every pass until ``done``.

        Raises:
            BackendError: a layer hands on something that will not rest.
        """
        self.passes += 1
        self.done = True
        before, self._before = self._before, self._carried()
        for layer, old, new in zip(self.layers, before, self._before, strict=True):
            counts = all(isinstance(value, int | float) for value in new)
            if all(a is b or (counts and a == b) for a, b in zip(old, new, strict=True)):
                continue
            self.done = False
            if self.passes >= SETTLE or not counts:
                raise BackendError(
                    f"{layer.spec.label()}: hands {', '.join(layer.carried)} to its next pass, "
                    "which a CUDA graph cannot; leave --cuda-graph out."
                )


class RecordedPass:
    """Forward and backward of one batch shape as a CUDA graph.

    The passes before recording are undone: weights and running statistics are put back and the
    gradients cleared, so that the first replay is the first training pass.

    Args:
        forward: gives the loss and the outputs of a batch.
        learnable: the learnable blobs.
        example: a batch on the device.

    Raises:
        BackendError: a layer synchronises with the host, which cannot be recorded.
    """

    def __init__(
        self, forward: Pass, learnable: Sequence[LearnableBlob], example: dict[str, Tensor]
    ) -> None:
        self.inputs = {name: value.clone() for name, value in example.items()}
        device = next(iter(self.inputs.values())).device
        self.scale = torch.ones((), device=device)
        self.blobs = [blob.value for blob in learnable]
        before = [blob.detach().clone() for blob in self.blobs]
        added = [None if b.grad is None else b.grad.clone() for b in self.blobs]
        for blob in self.blobs:
            if blob.grad is None:
                blob.grad = torch.zeros_like(blob)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._work(forward)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph):
                self.loss, self.outputs = self._work(forward)
        except RuntimeError as error:
            raise BackendError(
                f"the net cannot be recorded as a CUDA graph ({error}); leave --cuda-graph out."
            ) from error
        with torch.no_grad():
            for blob, value, grad in zip(self.blobs, before, added, strict=True):
                blob.copy_(value)
                assert blob.grad is not None  # set above; for the type checker
                blob.grad.zero_() if grad is None else blob.grad.copy_(grad)

    def _work(self, forward: Pass) -> tuple[Tensor, list[Tensor]]:
        loss, outputs = forward(self.inputs)
        (loss * self.scale).backward()
        return loss.detach(), [output.detach() for output in outputs]

    def __call__(self, batch: dict[str, Tensor], scale: float) -> tuple[Tensor, list[Tensor]]:
        """Replay for a batch of the recorded shapes.

        Raises:
            BackendError: a blob has another shape than when the graph was recorded.
        """
        for name, value in batch.items():
            if value.shape != self.inputs[name].shape:
                raise BackendError(
                    f"blob '{name}' changed from {tuple(self.inputs[name].shape)} to "
                    f"{tuple(value.shape)}; a CUDA graph needs fixed shapes, leave it out."
                )
            self.inputs[name].copy_(value, non_blocking=True)
        self.scale.fill_(scale)
        self.graph.replay()
        return self.loss, self.outputs
