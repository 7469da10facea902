"""MatMul: products of matrices in the last two axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register


@register("MatMul")
class MatMul(Layer):
    """Matrix product ``y = op(a) op(b)``, op transposing or not, for every leading index.

    Bottoms:
        a: (..., M, K), or (..., K, M) with transpose_a.
        b: (..., K, L), or (..., L, K) with transpose_b; leading axes as a.
    Tops:
        y: (..., M, L).
    Parameters:
        transpose_a (false), transpose_b (false).
    ONNX:
        MatMul, preceded by Transpose.
    Caffe source:
        matmul_layer.cpp of the Synopsys fork
    Differences:
        has a gradient; that fork has none.
    """

    param_field = "matmul_param"
    bottoms = exactly(2)

    def _sizes(self, shapes: Sequence[Shape]) -> tuple[int, int, int]:
        """M, K and L."""
        a, b = tuple(shapes[0]), tuple(shapes[1])
        if len(a) < 2 or len(a) != len(b) or a[:-2] != b[:-2]:
            self.fail(f"bottoms {a} and {b} must have two axes or more and equal leading axes.")
        m, k = (a[-1], a[-2]) if self.p.transpose_a else (a[-2], a[-1])
        k_other, n = (b[-1], b[-2]) if self.p.transpose_b else (b[-2], b[-1])
        if k != k_other:
            self.fail(
                f"matrices of bottoms {a} and {b} do not multiply: {k} columns, {k_other} rows; "
                "check transpose_a and transpose_b."
            )
        return m, k, n

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The product's shape."""
        m, _k, n = self._sizes(shapes)
        return [(*shapes[0][:-2], m, n)]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply."""
        return (a.mT if self.p.transpose_a else a) @ (b.mT if self.p.transpose_b else b)

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Transpose where asked, MatMul."""
        axes = len(e.shape(bottoms[0]))
        swapped = [*range(axes - 2), axes - 1, axes - 2]
        sources = [
            e.op("Transpose", [bottom], perm=swapped)[0] if turned else bottom
            for bottom, turned in zip(
                bottoms, (self.p.transpose_a, self.p.transpose_b), strict=True
            )
        ]
        e.op("MatMul", sources, tops)

    def macs(self, shapes: Sequence[Shape]) -> int:
        """M K L for every leading index."""
        return math.prod(shapes[0][:-2]) * math.prod(self._sizes(shapes))
