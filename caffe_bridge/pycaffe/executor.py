"""The layer-by-layer executor: persistent blobs, partial passes, edits by the caller.

Each layer runs on leaves that share memory with its bottom blobs; its own little autograd graph
gives the gradient of that layer alone, which is then written into the blobs' ``diff``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from caffe_bridge.graph import Shape, Value
from caffe_bridge.net import Built, infer_shapes
from caffe_bridge.pycaffe.blob import Blob

#: Multiply-accumulates of a pass below which threads cost more than they save.
SMALL_PASS = 5_000_000


class Executor:
    """Runs the layers of a built net one by one on persistent blobs.

    Attributes:
        blobs: every blob by name, in order of first appearance.
        hooks: functions by name ("before_forward", ...), called with the index of each layer.
    """

    def __init__(self, built: Built) -> None:
        self.built = built
        self.hooks: dict[str, list[Callable[[int], None]]] = defaultdict(list)
        self.blobs: dict[str, Blob] = {}
        for value in built.graph.values:
            if value.blob not in self.blobs:
                self.blobs[value.blob] = Blob(torch.zeros(built.shapes[value.index]))
        self._loss = built.loss_weights()
        self._records: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        self.layer_needs, self.bottom_needs = self._needs()
        self._small = self._macs() < SMALL_PASS
        self._fitting = [[built.shapes[v.index] for v in node.inputs] for node in built.graph.nodes]
        self._restore_loss_diffs()

    def _check_blobs(self, index: int, bottoms: list[Shape]) -> None:
        """Refuse new bottom shapes that the layer's learnable blobs were not made for."""
        layer = self.built.layers[index]
        if bottoms == self._fitting[index]:
            return
        wanted = [tuple(spec.shape) for spec in layer.blob_specs(bottoms)]
        held = [tuple(blob.shape) for blob in layer.blobs]
        if wanted != held:
            layer.fail(
                f"has learnable blobs {held}, bottom shapes {bottoms} would need {wanted}; "
                "only sizes that leave them alone can change."
            )
        self._fitting[index] = bottoms

    def _macs(self) -> int:
        """Multiply-accumulates of a forward pass, as far as layers can tell."""
        total = 0
        for node, layer in zip(self.built.graph.nodes, self.built.layers, strict=True):
            total += layer.macs([self.blobs[v.blob].shape for v in node.inputs]) or 0
        return total

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """Run a small net on one thread: faster, and sums do not depend on the machine's cores."""
        before = torch.get_num_threads()
        if not self._small or before == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _restore_loss_diffs(self) -> None:
        for value in self.built.graph.values:
            if value.index in self._loss:
                blob = self.blobs[value.blob]
                blob.gradient = torch.full(blob.shape, self._loss[value.index])

    def _needs(self) -> tuple[list[bool], list[list[bool]]]:
        """Which layers and bottoms take part in backward (Net::Init's three passes)."""
        force = self.built.spec.force_backward
        needed = [False] * len(self.built.graph.values)
        layers: list[bool] = []
        bottoms: list[list[bool]] = []
        for node, layer in zip(self.built.graph.nodes, self.built.layers, strict=True):
            mine = []
            for position, value in enumerate(node.inputs):
                need = needed[value.index]
                if position < len(node.layer.propagate_down):
                    need = node.layer.propagate_down[position]
                if force and position not in layer.no_gradient_bottoms and layer.differentiable:
                    need = True
                mine.append(need)
            own = any(blob.requires_grad for blob in layer.blobs)
            need = (own or any(needed[v.index] for v in node.inputs) or force) and (
                layer.differentiable and bool(node.inputs or own)
            )
            for value in node.outputs:
                needed[value.index] = need
            layers.append(need)
            bottoms.append(mine)
        if not force:
            under_loss = set(self._loss)
            for node in reversed(self.built.graph.nodes):
                if any(value.index in under_loss for value in node.outputs):
                    under_loss.update(value.index for value in node.inputs)
                else:
                    layers[node.index] = False
        return layers, bottoms

    def reshape(self) -> None:
        """Propagate the shapes of the entry blobs through the net."""
        entries = {
            value.blob: self.blobs[value.blob].shape
            for node, layer in zip(self.built.graph.nodes, self.built.layers, strict=True)
            if layer.is_input
            for value in node.outputs
        }
        shapes = infer_shapes(self.built.graph, self.built.layers, entries)
        for node in self.built.graph.nodes:
            self._check_blobs(node.index, [shapes[value.index] for value in node.inputs])
        for value in self.built.graph.values:
            self.blobs[value.blob].reshape(*shapes[value.index])
        self._small = self._macs() < SMALL_PASS
        self._restore_loss_diffs()

    def forward(self, start: int, end: int) -> float:
        """Run layers ``start`` to ``end`` (inclusive); returns the weighted loss of their tops."""
        with self._threads():
            return self._forward(start, end)

    def _forward(self, start: int, end: int) -> float:
        loss = 0.0
        for index in range(start, end + 1):
            self._call("before_forward", index)
            layer = self.built.layers[index]
            if layer.has_source or not layer.is_input:
                loss += self._forward_layer(index)
            self._call("after_forward", index)
        self._refill_lost_loss_diffs()
        return loss

    def _call(self, hook: str, index: int) -> None:
        for callback in self.hooks[hook]:
            callback(index)

    def _forward_layer(self, index: int) -> float:
        node, layer = self.built.graph.nodes[index], self.built.layers[index]
        self._check_blobs(index, [self.blobs[value.blob].shape for value in node.inputs])
        loss = 0.0
        leaves = []
        for value, wanted in zip(node.inputs, self.bottom_needs[index], strict=True):
            leaf = self.blobs[value.blob].tensor.detach()
            leaves.append(leaf.requires_grad_(wanted and self.layer_needs[index]))
        with torch.set_grad_enabled(self.layer_needs[index]):
            tops = layer.run(leaves)
        if self.layer_needs[index]:
            self._records[index] = (leaves, tops)
        for value, top in zip(node.outputs, tops, strict=True):
            stored = top.detach().contiguous()
            self.blobs[value.blob].tensor = stored
            if value.index in self._loss:
                loss += float(stored.sum()) * self._loss[value.index]
        return loss

    def _refill_lost_loss_diffs(self) -> None:
        for value in self.built.graph.values:
            blob = self.blobs[value.blob]
            if value.index in self._loss and blob._diff is None:
                blob.gradient = torch.full(blob.shape, self._loss[value.index])

    def backward(self, start: int, end: int) -> None:
        """Back-propagate layers ``start`` down to ``end`` (inclusive) from their tops' diffs."""
        written: set[int] = set()
        with self._threads():
            for index in range(start, end - 1, -1):
                self._call("before_backward", index)
                if self.layer_needs[index] and index in self._records:
                    self._backward_layer(index, written)
                self._call("after_backward", index)

    def _backward_layer(self, index: int, written: set[int]) -> None:
        node, layer = self.built.graph.nodes[index], self.built.layers[index]
        leaves, tops = self._records[index]
        pairs = [
            (top, self.blobs[value.blob].gradient)
            for value, top in zip(node.outputs, tops, strict=True)
            if top.requires_grad
        ]
        inputs = [leaf for leaf in leaves if leaf.requires_grad]
        params = _unique(blob for blob in layer.blobs if blob.requires_grad)
        if not (inputs or params):
            return
        grads: Sequence[Tensor | None] = [None] * len([*inputs, *params])
        if pairs:
            grads = torch.autograd.grad(
                [top for top, _ in pairs],
                [*inputs, *params],
                [diff.clone() for _, diff in pairs],
                retain_graph=True,
                allow_unused=True,
            )
        found = iter(grads[: len(inputs)])
        for value, leaf in zip(node.inputs, leaves, strict=True):
            if leaf.requires_grad:
                grad = next(found)
                self._write(value, torch.zeros_like(leaf) if grad is None else grad, written)
        for param, grad in zip(params, grads[len(inputs) :], strict=True):
            if grad is not None:
                param.grad = grad.clone() if param.grad is None else param.grad.add_(grad)

    def _write(self, value: Value, grad: Tensor, written: set[int]) -> None:
        blob = self.blobs[value.blob]
        if value.index in written:
            blob.gradient.add_(grad.detach())
        else:
            written.add(value.index)
            # A loss that another layer reads has a gradient from both.
            blob.gradient = grad.detach() + self._loss.get(value.index, 0.0)


def _unique(items: Iterable[torch.nn.Parameter]) -> Sequence[torch.nn.Parameter]:
    return list({id(item): item for item in items}.values())
