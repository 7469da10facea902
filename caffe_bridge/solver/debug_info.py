"""The lines that ``debug_info: true`` prints: mean magnitudes of all blobs and their gradients.

The training net prints them in iterations that are displayed, test nets the forward ones in every
batch. Caffe source: Net::ForwardDebugInfo, BackwardDebugInfo and Backward in net.cpp. Differences:
where several layers read a blob Caffe splits it and prints each reader's part of the gradient; here
every reader's line shows their sum.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from caffe_bridge.net import Net


def _mean(values: Tensor | None) -> float:
    return float(values.detach().float().abs().mean()) if values is not None else 0.0


@torch.no_grad()
def forward_lines(net: Net) -> Iterator[str]:
    """Lines for the forward half of the last pass of a net with ``keep_diffs`` set."""
    for node, layer in zip(net.built.graph.nodes, net.built.layers, strict=True):
        head = f"    [Forward] Layer {layer.name}"
        for value in node.outputs:
            yield f"{head}, top blob {value.blob} data: {_mean(net.kept[value.index]):g}"
        given = [spec.name for spec in layer.spec.params]
        for index, blob in enumerate(layer.blobs):
            name = (given[index] if index < len(given) else "") or str(index)
            yield f"{head}, param blob {name} data: {_mean(blob):g}"


@torch.no_grad()
def debug_lines(net: Net) -> Iterator[str]:
    """Lines for the last training pass of a net with ``keep_diffs`` set."""
    yield from forward_lines(net)
    graph, kept = net.built.graph, net.kept
    for node, layer in reversed(list(zip(graph.nodes, net.built.layers, strict=True))):
        head = f"    [Backward] Layer {layer.name}"
        for value in node.inputs:
            if kept[value.index].requires_grad:
                yield f"{head}, bottom blob {value.blob} diff: {_mean(kept[value.index].grad):g}"
        for index, blob in enumerate(layer.blobs):
            if blob.requires_grad:
                yield f"{head}, param blob {index} diff: {_mean(blob.grad):g}"
    data = [blob.value.detach() for blob in net.learnable]
    diff = [b.value.grad for b in net.learnable if b.value.grad is not None]
    sums = [sum(float(t.abs().sum()) for t in tensors) for tensors in (data, diff)]
    squares = [sum(float(t.square().sum()) for t in tensors) ** 0.5 for tensors in (data, diff)]
    yield (
        f"    [Backward] All net params (data, diff): L1 norm = ({sums[0]:g}, {sums[1]:g}); "
        f"L2 norm = ({squares[0]:g}, {squares[1]:g})"
    )
