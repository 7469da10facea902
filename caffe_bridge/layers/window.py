"""Kernel, stride, pad and dilation of convolution-like layers, as Caffe reads them.

Each may be one number for all spatial axes, one per axis, or (for two axes) ``_h`` and ``_w``
fields. Caffe source: base_conv_layer.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from caffe_bridge.layers.base import Layer


@dataclass(frozen=True)
class Window:
    """Kernel geometry per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    def extent(self) -> tuple[int, ...]:
        """Pixels a dilated kernel covers per axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def convolved(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Output sizes of a convolution: floor((size + 2 pad - extent) / stride) + 1."""
        return tuple(
            (n + 2 * p - e) // s + 1
            for n, p, e, s in zip(sizes, self.pad, self.extent(), self.stride, strict=True)
        )

    def deconvolved(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Output sizes of a deconvolution: stride (size - 1) + extent - 2 pad."""
        return tuple(
            s * (n - 1) + e - 2 * p
            for n, p, e, s in zip(sizes, self.pad, self.extent(), self.stride, strict=True)
        )


def _values(layer: Layer, name: str, short: str, axes: int, default: int) -> tuple[int, ...]:
    many = list(getattr(layer.p, name))
    if short and (layer.p.has(f"{short}_h") or layer.p.has(f"{short}_w")):
        if many:
            layer.fail(f"gives both {name} and {short}_h/{short}_w; keep one.")
        if axes != 2:
            layer.fail(f"{short}_h and {short}_w need two spatial axes, found {axes}.")
        return (int(getattr(layer.p, f"{short}_h")), int(getattr(layer.p, f"{short}_w")))
    if len(many) not in (0, 1, axes):
        layer.fail(f"gives {len(many)} {name} values for {axes} spatial axes; give 1 or {axes}.")
    if not many:
        return (default,) * axes
    return tuple(int(v) for v in (many * axes if len(many) == 1 else many))


def window(layer: Layer, axes: int) -> Window:
    """The window of a layer whose ``p`` is a ConvolutionParameter.

    Raises:
        ShapeError: contradictory, missing or non-positive values.
    """
    result = Window(
        kernel=_values(layer, "kernel_size", "kernel", axes, 0),
        stride=_values(layer, "stride", "stride", axes, 1),
        pad=_values(layer, "pad", "pad", axes, 0),
        dilation=_values(layer, "dilation", "", axes, 1),
    )
    if any(k < 1 for k in result.kernel):
        layer.fail(f"kernel size is {result.kernel}; give kernel_size, or kernel_h and kernel_w.")
    if any(s < 1 for s in result.stride) or any(d < 1 for d in result.dilation):
        layer.fail(f"stride {result.stride} and dilation {result.dilation} must be positive.")
    return result
