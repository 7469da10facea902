"""Reorg: darknet's exchange of pixels and channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer
from caffe_bridge.layers.registry import register


@register("Reorg")
class Reorg(Layer):
    """Rearrange an image as darknet does, which is not space-to-depth.

    The C x H x W numbers of an item are read as an image of C / s^2 channels, H s rows and W s
    columns; with k = (a s + b) C / s^2 + c, ``y[k, j, i] = x'[c, j s + a, i s + b]``. The C x H x W
    numbers found are then read as C s^2 channels of H / s rows and W / s columns. With ``reverse``
    the pixels of C / s^2 channels come from the channels: ``y[c, j s + a, i s + b] = x[k, j, i]``.

    Bottoms:
        x: (N, C, H, W), C divisible by s^2, without reverse H and W by s.
    Tops:
        y: (N, C s^2, H / s, W / s); reverse: (N, C / s^2, H s, W s).
    Parameters:
        stride (s): required; reverse (false).
    ONNX:
        Reshape, Transpose, Reshape.
    Caffe source:
        reorg_layer.cpp of the YOLOv2 forks
    Differences:
        a bottom whose channels do not divide is refused; those forks read beyond it.
    """

    param_field = "reorg_param"

    def configure(self) -> None:
        """Check the stride."""
        self.stride = int(self.p.stride)
        if self.stride < 1:
            self.fail(f"stride is {self.stride}; give a positive number.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The rearranged shape."""
        shape, s = tuple(shapes[0]), self.stride
        fits = len(shape) == 4 and shape[1] % (s * s) == 0
        if not fits or (not self.p.reverse and (shape[2] % s or shape[3] % s)):
            self.fail(
                f"bottom shape {shape} does not fit stride {s}: it must have 4 axes, channels "
                f"that divide by {s * s}{'' if self.p.reverse else f', rows and columns by {s}'}."
            )
        n, c, h, w = shape
        if self.p.reverse:
            return [(n, c // (s * s), h * s, w * s)]
        return [(n, c * s * s, h // s, w // s)]

    def _view(self, shape: Shape) -> tuple[Shape, tuple[int, ...]]:
        """Shape with six axes, and the order in which they are put together."""
        (n, c, h, w), s = shape, self.stride
        if self.p.reverse:
            return (n, s, s, c // (s * s), h, w), (0, 3, 4, 1, 5, 2)
        return (n, c // (s * s), h, s, w, s), (0, 3, 5, 1, 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange."""
        shape = tuple(x.shape)
        view, order = self._view(shape)
        return x.reshape(view).permute(order).reshape(self.infer([shape])[0])

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Reshape, Transpose, Reshape."""
        shape = e.shape(bottoms[0])
        view, order = self._view(shape)
        (mixed,) = e.op("Transpose", [e.reshape(bottoms[0], view)], perm=list(order))
        e.reshape(mixed, self.infer([shape])[0], tops[0])
