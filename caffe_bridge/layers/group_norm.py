"""GroupNorm: normalisation of an item's channels in groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer
from caffe_bridge.layers.bn import emit_affine, per_channel
from caffe_bridge.layers.registry import register


@register("GroupNorm")
class GroupNorm(Layer):
    """``y = (x - mean) / sqrt(var + eps)`` over each group of channels of each item.

    Bottoms:
        x: (N, C, ...), C divisible by the number of groups.
    Tops:
        y: the same shape; may be in place.
    Blobs:
        none; with a ``scale_filler`` or ``bias_filler`` (SENet's fork) scale and bias,
        (1, C, 1, 1) each, by which y is multiplied and to which it is added.
    Parameters:
        group_num (32; in SENet's fork ``group``), eps (1e-5).
    ONNX:
        Reshape, InstanceNormalization, Reshape; Mul and Add.
    Caffe source:
        group_norm_layer.cpp of two forks
    Differences:
        runs on the CPU too.
    """

    param_field = "group_norm_param"

    def configure(self) -> None:
        """Read the number of groups."""
        self.groups = int(self.p.group if self.p.has("group") else self.p.group_num)
        self.affine = self.p.has("scale_filler") or self.p.has("bias_filler")
        if self.groups < 1:
            self.fail(f"the number of groups is {self.groups}; give a positive one.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shape of the bottom, once its channels divide."""
        shape = tuple(shapes[0])
        if len(shape) < 2 or shape[1] % self.groups:
            self.fail(
                f"bottom shape {shape} has no channels that divide into {self.groups} groups; use "
                "a group_num that divides them."
            )
        return [shape]

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Scale and bias, where the fork has them."""
        if not self.affine:
            return []
        shape = (1, shapes[0][1], 1, 1)
        return [BlobSpec(shape, self.p.scale_filler), BlobSpec(shape, self.p.bias_filler, "bias")]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each group."""
        flat = x.reshape(x.shape[0], self.groups, -1)
        centred = flat - flat.mean(2, keepdim=True)
        spread = centred.square().mean(2, keepdim=True)
        y = (centred / torch.sqrt(spread + self.p.eps)).reshape(x.shape)
        if self.affine:
            y = y * per_channel(self.blobs[0], x.ndim) + per_channel(self.blobs[1], x.ndim)
        return y

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Instance normalisation of the groups as channels."""
        shape = e.shape(bottoms[0])
        size = int(np.prod(shape[1:])) // self.groups
        flat = e.reshape(bottoms[0], (shape[0], self.groups, size))
        ones = e.constant(np.ones(self.groups, np.float32), "ones")
        zeros = e.constant(np.zeros(self.groups, np.float32), "zeros")
        (y,) = e.op("InstanceNormalization", [flat, ones, zeros], epsilon=float(self.p.eps))
        if not self.affine:
            e.reshape(y, shape, tops[0])
            return
        y = e.reshape(y, shape)
        scale, bias = (b.detach().cpu().numpy().astype(np.float32) for b in self.blobs)
        emit_affine(e, y, scale, bias, len(shape), tops[0])
