"""How long each layer takes forward and backward, as ``caffe time`` measures it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from caffe_bridge.net.net import Net


@dataclass
class LayerTime:
    """Mean milliseconds of one layer."""

    name: str
    type: str
    forward_ms: float = 0.0
    backward_ms: float = 0.0


@dataclass
class NetTime:
    """Mean milliseconds of the layers and of whole passes, and of all iterations together."""

    layers: list[LayerTime]
    forward_ms: float
    backward_ms: float
    total_ms: float


def _timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, (time.perf_counter() - start) * 1e3


def time_layers(net: Net, feed: Mapping[str, Tensor], iterations: int) -> NetTime:
    """Time every layer by itself.

    Each layer runs on detached bottoms and is differentiated alone, with gradients of ones at the
    losses; the passes' times are the sums over layers, reading of data included. One pass before
    the first is not counted.

    Args:
        net: the net, on its device.
        feed: values of inputs without a source.
        iterations: passes to average over.
    """
    rows = [LayerTime(layer.name, layer.type_name) for layer in net.built.layers]
    start = 0.0
    for number in range(iterations + 1):
        if number == 1:
            for row in rows:
                row.forward_ms = row.backward_ms = 0.0
            start = time.perf_counter()
        _pass(net, feed, rows)
    total = (time.perf_counter() - start) * 1e3
    for row in rows:
        row.forward_ms /= iterations
        row.backward_ms /= iterations
    return NetTime(rows, sum(r.forward_ms for r in rows), sum(r.backward_ms for r in rows), total)


def _pass(net: Net, feed: Mapping[str, Tensor], rows: list[LayerTime]) -> None:
    graph, layers = net.built.graph, net.built.layers
    device = next((b.value.device for b in net.learnable), torch.device("cpu"))
    values: list[Tensor] = [torch.empty(0)] * len(graph.values)
    needs = [False] * len(graph.values)
    done: list[tuple[list[Tensor], list[Tensor]]] = []
    for node, layer in zip(graph.nodes, layers, strict=True):
        if layer.is_input and not (layer.has_source and not any(
            v.blob in feed for v in node.outputs
        )):  # fmt: skip
            for value in node.outputs:
                values[value.index] = feed[value.blob].to(device)
            done.append(([], []))
            continue
        leaves = [
            values[v.index].detach().requires_grad_(needs[v.index] and layer.differentiable)
            for v in node.inputs
        ]
        tops, took = _timed(partial(net.compute, layer, leaves), device)
        tops = [top.to(device) for top in tops]
        rows[node.index].forward_ms += took
        for value, top in zip(node.outputs, tops, strict=True):
            values[value.index], needs[value.index] = top, top.requires_grad
        done.append((leaves, tops))
    gradients: list[Tensor | None] = [None] * len(graph.values)
    for index, weight in net.built.loss_weights().items():
        gradients[index] = torch.full_like(values[index], weight)
    for node, layer in reversed(list(zip(graph.nodes, layers, strict=True))):
        leaves, tops = done[node.index]
        if not tops:
            continue
        pairs = [
            (top, diff) for v, top in zip(node.outputs, tops, strict=True)
            if top.requires_grad and (diff := gradients[v.index]) is not None
        ]  # fmt: skip
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        params = [blob for blob in layer.blobs if blob.requires_grad]
        if not pairs or not (wanted or params):
            continue
        got, took = _timed(partial(_gradient, pairs, [*wanted, *params]), device)
        rows[node.index].backward_ms += took
        parts = iter(got)
        for value, leaf in zip(node.inputs, leaves, strict=True):
            part = next(parts) if leaf.requires_grad else None
            if part is not None:
                before = gradients[value.index]
                gradients[value.index] = part if before is None else before + part


def _gradient(pairs: list[tuple[Tensor, Tensor]], wanted: list[Tensor]) -> Any:
    return torch.autograd.grad(
        [top for top, _ in pairs], wanted, [diff for _, diff in pairs], allow_unused=True
    )


def example_feed(net: Net, seed: int = 0) -> dict[str, Tensor]:
    """Random values for inputs without a source; zeros, valid labels, where an axis is missing."""
    random = torch.Generator().manual_seed(seed)
    made = {}
    for node, layer in zip(net.built.graph.nodes, net.built.layers, strict=True):
        if not layer.is_input or layer.has_source:
            continue
        for value in node.outputs:
            shape = net.built.shapes[value.index]
            made[value.blob] = (
                torch.zeros(shape) if len(shape) < 2 else torch.randn(shape, generator=random)
            )
    return made
