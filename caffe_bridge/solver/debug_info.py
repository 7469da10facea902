"""The lines that ``debug_info: true`` prints: mean magnitudes of all blobs and their gradients.

Caffe source: Net::ForwardDebugInfo, BackwardDebugInfo and Backward in net.cpp. Differences: where
several layers read a blob Caffe splits it and prints each reader's part of the gradient; here every
reader's line shows their sum.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from caffe_bridge.net import Net


def _mean(values: Tensor | None) -> float:
    return float(values.detach().float().abs().mean()) if values is not None else 0.0


@torch.no_grad()
def debug_lines(net: Net) -> Iterator[str]:
    """Lines for the last pass of a net with ``keep_diffs`` set."""
    graph, kept = net.built.graph, net.kept
    names = [
        [spec.name or str(index) for index, spec in enumerate(layer.spec.params)]
        + [str(index) for index in range(len(layer.spec.params), len(layer.blobs))]
        for layer in net.built.layers
    ]
    for node, layer in zip(graph.nodes, net.built.layers, strict=True):
        head = f"    [Forward] Layer {layer.name}"
        for value in node.outputs:
            yield f"{head}, top blob {value.blob} data: {_mean(kept[value.index]):g}"
        for name, blob in zip(names[node.index], layer.blobs, strict=True):
            yield f"{head}, param blob {name} data: {_mean(blob):g}"
    for node, layer in reversed(list(zip(graph.nodes, net.built.layers, strict=True))):
        head = f"    [Backward] Layer {layer.name}"
        for value in node.inputs:
            if kept[value.index].requires_grad:
                yield f"{head}, bottom blob {value.blob} diff: {_mean(kept[value.index].grad):g}"
        for name, blob in zip(names[node.index], layer.blobs, strict=True):
            if blob.requires_grad:
                yield f"{head}, param blob {name} diff: {_mean(blob.grad):g}"
    data = [blob.value.detach() for blob in net.learnable]
    diff = [b.value.grad for b in net.learnable if b.value.grad is not None]
    sums = [sum(float(t.abs().sum()) for t in tensors) for tensors in (data, diff)]
    squares = [sum(float(t.square().sum()) for t in tensors) ** 0.5 for tensors in (data, diff)]
    yield (
        f"    [Backward] All net params (data, diff): L1 norm = ({sums[0]:g}, {sums[1]:g}); "
        f"L2 norm = ({squares[0]:g}, {squares[1]:g})"
    )
