"""Pooling: maximum, average or a draw over windows of the image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, between
from caffe_bridge.layers.pool_window import (
    Pair,
    PoolWindow,
    average_pool,
    emit_average,
    emit_max,
    emit_padded_average,
    emit_stochastic,
    max_pool,
    stochastic_pool,
)
from caffe_bridge.layers.registry import register


@register("Pooling")
class Pooling(Layer):
    """Pooling: every window of a channel gives one value.

    MAX: the first largest number; NaN never wins, an empty window gives -FLT_MAX.
    AVE: the sum over the window's size; padding counts in the size, what hangs over beyond the
    padding does not (an empty window gives 0/0).
    STOCHASTIC: TRAIN draws a value with probability proportional to it, TEST gives
    ``sum(x^2) / sum(x)``.

    Bottoms:
        x: (N, C, H, W).
    Tops:
        y: (N, C, h, w), ``h = ceil((H + 2 pad - kernel) / stride) + 1``; with padding on any
            axis, a last window that starts beyond ``H + pad`` is dropped.
        mask (MAX only): the same shape, ``row * W + column`` of the winner, -1 for none.
    Parameters:
        pool (MAX), kernel_size or kernel_h and kernel_w, stride (1) or stride_h and stride_w,
        pad (0) or pad_h and pad_w, global_pooling (false: the window is the whole image),
        round_mode (CEIL), and from forks ceil_mode (true), torch_pooling (false: FLOOR) and
        avg_include_pad (true).
    Gradient:
        MAX: to the winner only. The mask has none.
    ONNX:
        MaxPool, or Pad(0) and AveragePool, with explicit end pads; GlobalMaxPool and
        GlobalAveragePool. Form ``pads`` of AVE (ort-cpu, ort-cuda; where no window hangs over): the
        padding as an attribute, which keeps onnxruntime's blocked layout and saves a kernel. Empty
        windows take an explicit Pad. A NaN in a MAX window is up to the runtime.
    Caffe source:
        pooling_layer.cpp, pooling_layer.cu (STOCHASTIC)
    Differences:
        STOCHASTIC runs on the CPU too; its TEST form has a gradient.
    """

    param_field = "pooling_param"
    tops = between(1, 2)

    def configure(self) -> None:
        """Check which parameters are given together, as Caffe does by has-bits."""
        p = self.p
        if p.global_pooling:
            if any(p.has(name) for name in ("kernel_size", "kernel_h", "kernel_w")):
                self.fail("gives a kernel size with global_pooling; remove one of them.")
        elif p.has("kernel_size") == (p.has("kernel_h") and p.has("kernel_w")):
            self.fail("needs either kernel_size or both kernel_h and kernel_w.")
        self.window_kernel = self._pair("kernel_size", "kernel")
        self.stride, self.pad = self._pair("stride", "stride"), self._pair("pad", "pad")
        if p.global_pooling and (self.stride != (1, 1) or self.pad != (0, 0)):
            self.fail(
                f"global_pooling needs pad 0 and stride 1, found {self.pad} and {self.stride}."
            )
        if min(self.stride) < 1 or (not p.global_pooling and min(self.window_kernel) < 1):
            self.fail(f"kernel {self.window_kernel} and stride {self.stride} must be positive.")
        if any(self.pad):
            self._check_pad()
        if len(self.spec.tops) > 1 and p.pool != "MAX":
            self.fail(f"only MAX has a second top (the mask), pool is {p.pool}; name one top.")

    def _check_pad(self) -> None:
        if self.p.pool == "STOCHASTIC":
            self.fail("STOCHASTIC takes no padding; set pad to 0.")
        if any(p >= k for p, k in zip(self.pad, self.window_kernel, strict=True)):
            self.fail(f"pad {self.pad} must be smaller than kernel {self.window_kernel}.")

    def _pair(self, one: str, short: str) -> Pair:
        high, wide = f"{short}_h", f"{short}_w"
        if short != "kernel":
            split = self.p.has(high), self.p.has(wide)
            if any(split) and (self.p.has(one) or not all(split)):
                self.fail(f"needs either {one} or both {high} and {wide}.")
        if self.p.has(one) or not self.p.has(high):
            return int(getattr(self.p, one)), int(getattr(self.p, one))
        return int(getattr(self.p, high)), int(getattr(self.p, wide))

    def window(self, shape: Shape) -> PoolWindow:
        """The windows over a bottom of this shape."""
        floor = self.p.round_mode == "FLOOR" or not self.p.ceil_mode or self.p.torch_pooling
        kernel = (shape[2], shape[3]) if self.p.global_pooling else self.window_kernel
        return PoolWindow(kernel, self.stride, self.pad, floor)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """One value per window."""
        shape = shapes[0]
        if len(shape) != 4:
            self.fail(f"takes a bottom with 4 axes (N, C, H, W), found shape {tuple(shape)}.")
        window = self.window(shape)
        sizes = window.sizes(tuple(shape[2:]))
        if min(sizes) < 1:
            self.fail(
                f"kernel {window.kernel} with pad {window.pad} does not fit into bottom shape "
                f"{tuple(shape)}."
            )
        return [(*shape[:2], *sizes)] * len(self.spec.tops)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Pool; with two tops also the mask."""
        window = self.window(tuple(x.shape))
        if self.p.pool == "AVE":
            return average_pool(x, window, self.p.avg_include_pad)
        if self.p.pool == "STOCHASTIC":
            return stochastic_pool(x, window, self.train_phase)
        with_mask = len(self.spec.tops) > 1
        y, mask = max_pool(x, window, with_mask)
        return (y, mask) if with_mask else y

    def forms(self, shapes: Sequence[Shape]) -> tuple[str, ...]:
        """See the class."""
        if self.p.pool != "AVE" or not any(self.pad) or not self.p.avg_include_pad:
            return ()
        window, spatial = self.window(shapes[0]), tuple(shapes[0][2:])
        full = window.overhang(spatial, window.pad, window.pad) == (0, 0)
        return ("pad", "pads") if full else ("pad",)

    def form_for(self, target: str, shapes: Sequence[Shape]) -> str:
        """The form of a target."""
        known = self.forms(shapes)
        return known[0 if target == "portable" else -1] if known else ""

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """One pooling node with explicit pads."""
        shape = e.shape(bottoms[0])
        window = self.window(shape)
        if self.p.pool == "STOCHASTIC":
            emit_stochastic(e, bottoms[0], shape, window, tops[0])
        elif self.p.global_pooling and len(tops) == 1:
            e.op("GlobalMaxPool" if self.p.pool == "MAX" else "GlobalAveragePool", bottoms, tops)
        elif e.form == "pads":
            emit_padded_average(e, bottoms[0], window, tops[0])
        elif self.p.pool == "AVE":
            emit_average(e, bottoms[0], shape, window, tops[0], self.p.avg_include_pad)
        else:
            emit_max(e, bottoms[0], shape, window, tops)
