"""ShuffleChannel: mix the channels of groups."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("ShuffleChannel")
class ShuffleChannel(Layer):
    """Deal the channels of ``group`` groups out in turn: ``y[:, j * group + i] = x[:, i * K + j]``.

    K = C / group is the number of channels of a group.

    Bottoms:
        x: (N, C, ...).
    Tops:
        y: the same shape.
    Parameters:
        group (1).
    ONNX:
        Reshape, Transpose, Reshape; no node for one group.
    Caffe source:
        shuffle_channel_layer.cpp of the ShuffleNet forks
    Differences:
        none.
    """

    param_field = "shuffle_channel_param"

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The bottom's shape, once its channels divide."""
        shape, group = tuple(shapes[0]), int(self.p.group)
        if len(shape) < 2 or group < 1 or shape[1] % group:
            self.fail(
                f"bottom shape {shape} has no channels that divide into {group} groups; use a "
                "group that divides them."
            )
        return [shape]

    def forward(self, x: Tensor) -> Tensor:
        """Exchange the axes group and channel of group."""
        return x.unflatten(1, (int(self.p.group), -1)).transpose(1, 2).flatten(1, 2)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Reshape, Transpose, Reshape."""
        shape, group = e.shape(bottoms[0]), int(self.p.group)
        if group == 1:
            e.alias(bottoms[0], tops[0])
            return
        apart = e.reshape(bottoms[0], (0, group, shape[1] // group, *shape[2:]))
        order = [0, 2, 1, *range(3, len(shape) + 1)]
        (mixed,) = e.op("Transpose", [apart], perm=order)
        e.reshape(mixed, shape, tops[0])
