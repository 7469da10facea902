"""The whole-graph executor: a torch module that runs a Caffe net under autograd."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caffe_bridge.errors import BlobError
from caffe_bridge.graph import NetSpec, Shape, load_net
from caffe_bridge.layers.base import Layer
from caffe_bridge.layers.data_layer import DataLayer
from caffe_bridge.net.build import Built, LearnableBlob, build, infer_shapes
from caffe_bridge.net.weights import copy_weights, load_or_fill, save
from caffe_bridge.schema import Record, Weights


class Net(nn.Module):
    """A Caffe net as one torch module.

    Args:
        net: prototxt path, NetParameter record, or a filtered spec.
        phase: "TRAIN" or "TEST" (ignored for a spec).
        weights: optional caffemodel to copy from; fillers run only for blobs that it lacks.
        seed: seed of the fillers; torch's global generator when None.
        inputs: shapes that replace those of Input layers.
        built: its layers, when they have been made already.
        data_workers: processes in which each data layer that reads ahead makes its batches; 0 for
            one thread, None for as many as are usual for its kind of data. The batches are the
            same.

    Raises:
        BridgeError: the net cannot be read, built or filled.
    """

    def __init__(
        self,
        net: str | os.PathLike[str] | Record | NetSpec,
        phase: str = "TEST",
        weights: str | os.PathLike[str] | Weights | None = None,
        seed: int | None = None,
        inputs: Mapping[str, Shape] | None = None,
        built: Built | None = None,
        data_workers: int | None = None,
    ) -> None:
        super().__init__()
        spec = net if isinstance(net, NetSpec) else load_net(net, phase)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.built = built or build(spec, generator, inputs, fill=weights is None)
        self.layers = nn.ModuleList(self.built.layers)
        for layer in self.built.layers:
            if isinstance(layer, DataLayer):
                layer.use_workers(data_workers)
        self.missing: list[str] = []
        if weights is not None and built is None:
            self.missing = load_or_fill(self.built, weights, generator)
        elif weights is not None:
            self.missing = copy_weights(self.built, weights)
        self.values: dict[str, Tensor] = {}
        #: Whether a pass keeps every value, with its gradient, in ``kept`` (debug_info).
        self.keep_diffs = False
        self.kept: list[Tensor] = []

    @property
    def spec(self) -> NetSpec:
        """The filtered net."""
        return self.built.spec

    @property
    def learnable(self) -> list[LearnableBlob]:
        """Learnable blobs that are nobody's copy, in Caffe's order."""
        return self.built.learnable

    @property
    def inputs(self) -> dict[str, Shape]:
        """Names and example shapes of the blobs that the caller feeds."""
        return {
            value.blob: self.built.shapes[value.index]
            for node, layer in zip(self.built.graph.nodes, self.built.layers, strict=True)
            if layer.is_input
            for value in node.outputs
        }

    @property
    def outputs(self) -> list[str]:
        """Blobs that no layer reads, sorted as Caffe lists them."""
        return [value.blob for value in self.built.graph.outputs]

    def shapes_for(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Shapes of all blobs for other input shapes.

        Raises:
            ShapeError: the net does not allow them.
        """
        shapes = infer_shapes(self.built.graph, self.built.layers, inputs)
        return {blob: shapes[value.index] for blob, value in self.built.graph.blobs().items()}

    def layer(self, name: str) -> Any:
        """The first layer with that name.

        Raises:
            BlobError: no such layer.
        """
        for layer in self.built.layers:
            if layer.name == name:
                return layer
        raise BlobError(f"{self.spec.source}: has no layer '{name}'.")

    def run(self, feed: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """Compute every value of the graph, in the order of ``built.graph.values``.

        Raises:
            BlobError: an input was not fed.
        """
        values: list[Tensor] = [torch.empty(0)] * len(self.built.graph.values)
        self.advance(values, feed or {}, range(len(self.built.layers)))
        return values

    def advance(self, values: list[Tensor], feed: Mapping[str, Tensor], nodes: range) -> None:
        """Run some of the layers; what they read and make is in ``values``.

        Raises:
            BlobError: an input was not fed.
        """
        device = next((b.value.device for b in self.learnable), torch.device("cpu"))
        for index in nodes:
            node, layer = self.built.graph.nodes[index], self.built.layers[index]
            fed = any(value.blob in feed for value in node.outputs)
            if layer.is_input and (fed or not layer.has_source):
                for value in node.outputs:
                    if value.blob not in feed:
                        raise BlobError(
                            f"{node.layer.label()}: input '{value.blob}' was not given; feed it."
                        )
                    values[value.index] = feed[value.blob]
                continue
            bottoms = [values[v.index] for v in node.inputs]
            for position, wanted in enumerate(node.layer.propagate_down):
                if not wanted and position < len(bottoms):
                    bottoms[position] = bottoms[position].detach()
            if layer.differentiable:
                tops = self.compute(layer, bottoms)
            else:
                with torch.no_grad():
                    tops = self.compute(layer, bottoms)
            for value, top in zip(node.outputs, tops, strict=True):
                values[value.index] = top if bottoms else top.to(device, non_blocking=True)

    def compute(self, layer: Layer, bottoms: list[Tensor]) -> list[Tensor]:
        """One layer's forward pass; subclasses change types and layouts here."""
        return layer.run(bottoms)

    def reset_state(self) -> None:
        """Let recurrent layers start from zeros again."""
        for layer in self.built.layers:
            layer.reset_state()

    def forward(
        self, feed: Mapping[str, Tensor] | None = None, **more: Tensor
    ) -> dict[str, Tensor]:
        """Run the net; returns its outputs by blob name. All blobs are kept in ``self.values``."""
        values = self.run({**(feed or {}), **more})
        self.values = {b: values[v.index] for b, v in self.built.graph.blobs().items()}
        return {name: self.values[name] for name in self.outputs}

    def forward_backward(self, feed: Mapping[str, Tensor] | None = None) -> float:
        """One forward and backward pass; gradients are added to ``grad`` of the learnable blobs.

        Returns:
            The total loss: every loss top times its weight.
        """
        self.values, self.kept = {}, []  # the next pass needs the memory of the last one
        values = self.run(feed)
        if self.keep_diffs:
            self.kept = values
            for value in values:
                if value.requires_grad:
                    value.retain_grad()
        self.values = {b: values[v.index].detach() for b, v in self.built.graph.blobs().items()}
        weighted = [values[i].sum() * w for i, w in self.built.loss_weights().items()]
        if not weighted:
            return 0.0
        loss = torch.stack(weighted).sum()
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    @torch.no_grad()
    def evaluate(self, feed: Mapping[str, Tensor] | None = None) -> float:
        """A forward pass without gradients; returns the total loss."""
        values = self.run(feed)
        self.kept = values if self.keep_diffs else []
        self.values = {b: values[v.index] for b, v in self.built.graph.blobs().items()}
        return float(sum(float(values[i].sum()) * w for i, w in self.built.loss_weights().items()))

    def fetch(self, blob: str) -> Tensor:
        """A blob's values after the last pass."""
        return self.values[blob]

    def load(self, weights: str | os.PathLike[str] | Weights) -> list[str]:
        """Copy weights by layer name; returns the layers that found none.

        Raises:
            WeightError: blobs do not fit.
        """
        return copy_weights(self.built, weights)

    def save(self, path: str | os.PathLike[str], diffs: Sequence[Tensor] = ()) -> Path:
        """Write the weights as caffemodel (or .h5), with a ``diff`` for each learnable blob."""
        return save(self.built, path, diffs)
