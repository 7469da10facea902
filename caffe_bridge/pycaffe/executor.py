"""The layer-by-layer executor: persistent blobs, partial passes, edits by the caller.

Each layer runs on leaves that share memory with its bottom blobs; its own little autograd graph
gives the gradient of that layer alone, which is then written into the blobs' ``diff``. Nets compute
where ``set_mode_gpu`` and ``set_device`` say; blobs and layers move there with a forward pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from caffe_bridge.graph import Node, Shape, Value
from caffe_bridge.net import Built, infer_shapes
from caffe_bridge.pycaffe.blob import Blob, ParamBlob, param_blob
from caffe_bridge.pycaffe.place import HOST, Place, current_place

#: Multiply-accumulates of a pass below which threads cost more than they save.
SMALL_PASS = 5_000_000


@dataclass(frozen=True)
class _Record:
    """What a layer's backward needs: leaves of its bottoms, its tops, which of them are its own."""

    leaves: list[Tensor]
    tops: list[Tensor]
    own: list[bool]


class Executor:
    """Runs the layers of a built net one by one on persistent blobs.

    Attributes:
        blobs: every blob by name, in order of first appearance.
        hooks: functions by name ("before_forward", ...), called with the index of each layer.
        place: where the last pass ran.
    """

    def __init__(self, built: Built) -> None:
        self.built = built
        self.place = HOST
        self.hooks: dict[str, list[Callable[[int], None]]] = defaultdict(list)
        self.blobs: dict[str, Blob] = {}
        for value in built.graph.values:
            if value.blob not in self.blobs:
                self.blobs[value.blob] = Blob(torch.zeros(built.shapes[value.index]))
        self._loss = built.loss_weights()
        self._records: dict[int, _Record] = {}
        last = {value.blob: value.index for value in built.graph.values}
        self._last = [last[value.blob] == value.index for value in built.graph.values]
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

    def _restore_loss_diffs(self, only_lost: bool = False) -> None:
        for value in self.built.graph.values:
            if value.index in self._loss:
                blob = self.blobs[value.blob]
                if not (only_lost and blob.has_gradient):
                    weight = self._loss[value.index]
                    blob.gradient = torch.full(blob.shape, weight, device=self.place.device)

    def param_blobs(self) -> list[ParamBlob]:
        """The learnable blobs of all layers, each once."""
        return [param_blob(p) for p in _unique(p for la in self.built.layers for p in la.blobs)]

    def move(self, place: Place) -> None:
        """Bring blobs and layers to a place; other nets' shared learnable blobs come along."""
        for learnable in self.param_blobs():
            learnable.move(place)
        if place is self.place:
            return
        for blob in self.blobs.values():
            blob.move(place)
        for layer in self.built.layers:
            layer.to(place.device)
            for name in layer.carried:
                setattr(layer, name, _moved(getattr(layer, name), place.device))
        self._records.clear()
        self.place = place

    def push(self) -> None:
        """Bring to the device what the host wrote since the last pass."""
        if self.place.separate:
            for blob in (*self.blobs.values(), *self.param_blobs()):
                blob.push()

    def settle(self) -> None:
        """Show in the host's arrays what a training step changed on the device."""
        if self.place.separate:
            for blob in self.param_blobs():
                blob.settle()

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
        self.push()
        shapes = infer_shapes(self.built.graph, self.built.layers, entries)
        if self.place.separate:
            for learnable in self.param_blobs():
                learnable.changed()
        for node in self.built.graph.nodes:
            self._check_blobs(node.index, [shapes[value.index] for value in node.inputs])
        for value in self.built.graph.values:
            self.blobs[value.blob].reshape(*shapes[value.index])
        self._small = self._macs() < SMALL_PASS
        self._restore_loss_diffs()

    def forward(self, start: int, end: int) -> float:
        """Run layers ``start`` to ``end`` (inclusive); returns the weighted loss of their tops."""
        self.move(current_place())
        self.push()
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
        self._restore_loss_diffs(only_lost=True)
        return loss

    def _call(self, hook: str, index: int) -> None:
        for callback in self.hooks[hook]:
            callback(index)
            self.push()

    def _leaf(self, value: Value, wanted: bool) -> Tensor:
        """A layer's own view of a bottom; a copy where a later in-place layer writes over it."""
        values = self.blobs[value.blob].values
        leaf = values.value.detach()
        if values.live and not self._last[value.index] and not self.place.separate:
            leaf = leaf.clone()
        return leaf.requires_grad_(wanted)

    def _forward_layer(self, index: int) -> float:
        node, layer = self.built.graph.nodes[index], self.built.layers[index]
        self._check_blobs(index, [self.blobs[value.blob].shape for value in node.inputs])
        loss = 0.0
        needed = self.layer_needs[index]
        leaves = [
            self._leaf(value, wanted and needed)
            for value, wanted in zip(node.inputs, self.bottom_needs[index], strict=True)
        ]
        with torch.set_grad_enabled(needed):
            tops = layer.run(leaves)
        own = self._own(node, leaves, tops)
        if needed:
            self._records[index] = _Record(leaves, tops, own)
        for value, top, mine in zip(node.outputs, tops, own, strict=True):
            stored = top.detach().contiguous()
            self.blobs[value.blob].put(stored, borrowed=not mine)
            if value.index in self._loss:
                loss += float(stored.sum()) * self._loss[value.index]
        if self.place.separate:
            for parameter in layer.blobs:
                param_blob(parameter).changed()
        return loss

    def _own(self, node: Node, leaves: list[Tensor], tops: list[Tensor]) -> list[bool]:
        """Which tops have memory that no other blob, learnable blob or data source has."""
        written = {value.blob for value in node.outputs}
        foreign = {_memory(blob) for blob in self.built.layers[node.index].blobs}
        for value, leaf in zip(node.inputs, leaves, strict=True):
            if value.blob not in written or self.blobs[value.blob].values.borrowed:
                foreign.add(_memory(leaf))
        return [bool(node.inputs) and _memory(top) not in foreign for top in tops]

    def backward(self, start: int, end: int) -> None:
        """Back-propagate layers ``start`` down to ``end`` (inclusive) from their tops' diffs."""
        written: set[int] = set()
        self.push()
        with self._threads():
            for index in range(start, end - 1, -1):
                self._call("before_backward", index)
                if self.layer_needs[index] and index in self._records:
                    self._backward_layer(index, written)
                self._call("after_backward", index)

    def _backward_layer(self, index: int, written: set[int]) -> None:
        node, layer = self.built.graph.nodes[index], self.built.layers[index]
        record = self._records[index]
        leaves = record.leaves
        pairs = []
        for value, top, mine in zip(node.outputs, record.tops, record.own, strict=True):
            if top.requires_grad:
                self._show_edits(value, top, mine)
                pairs.append((top, self.blobs[value.blob].gradients.value))
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
        if self.place.separate:
            for parameter in layer.blobs:
                param_blob(parameter).changed()

    def _show_edits(self, value: Value, top: Tensor, own: bool) -> None:
        """Let the layer's gradient see a top that the host edited, as Caffe's layers do."""
        values = self.blobs[value.blob].values
        held = values.value
        if not (values.viewed and own and self._last[value.index] and top.is_contiguous()):
            return
        if held.data_ptr() != top.data_ptr() and held.shape == top.shape:
            top.data.copy_(held)

    def _write(self, value: Value, grad: Tensor, written: set[int]) -> None:
        blob = self.blobs[value.blob]
        if value.index in written:
            blob.gradients.value.add_(grad.detach())
            blob.gradients.settle()
        else:
            written.add(value.index)
            # A loss that another layer reads has a gradient from both.
            blob.gradient = grad.detach() + self._loss.get(value.index, 0.0)


def _unique(items: Iterable[torch.nn.Parameter]) -> Sequence[torch.nn.Parameter]:
    return list({id(item): item for item in items}.values())


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _moved(value: object, device: torch.device) -> object:
    """A layer's carried state on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(_moved(item, device) for item in value)
    return value
