"""InnerProduct: the fully connected layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer
from caffe_bridge.layers.registry import register


@register("InnerProduct")
class InnerProduct(Layer):
    """Fully connected layer: ``y = x W^T + b`` on everything from ``axis`` on, flattened.

    Bottoms:
        x: (*lead, *rest) where ``rest`` starts at ``axis`` and holds K values.
    Tops:
        y: (*lead, num_output).
    Blobs:
        weight: (num_output, K), or (K, num_output) with ``transpose: true``; ``weight_filler``.
        bias: (num_output,), ``bias_filler``, unless ``bias_term: false``.
    Parameters:
        num_output, bias_term (true), axis (1), transpose (false).
    ONNX:
        ``gemm`` (portable, and the other targets: it takes the activation in): Flatten and Gemm.
        ``matmul``: the weight stored transposed, MatMul and Add. Both weights are constants that
        onnxruntime packs when it loads. MatMul and Add when ``axis`` is not 1.
    Caffe source:
        inner_product_layer.cpp
    Differences:
        none.
    """

    param_field = "inner_product_param"

    def configure(self) -> None:
        """Check num_output."""
        if self.p.num_output < 1:
            self.fail("num_output is missing or zero; give the number of outputs.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Leading axes and num_output."""
        axis = self.axis(self.p.axis, shapes[0])
        return [(*shapes[0][:axis], int(self.p.num_output))]

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Weight, and bias unless switched off."""
        outputs = int(self.p.num_output)
        inputs = math.prod(shapes[0][self.axis(self.p.axis, shapes[0]) :])
        weight = (inputs, outputs) if self.p.transpose else (outputs, inputs)
        specs = [BlobSpec(weight, self.p.weight_filler, "weight")]
        if self.p.bias_term:
            specs.append(BlobSpec((outputs,), self.p.bias_filler, "bias"))
        return specs

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the weight and add the bias."""
        weight = self.blobs[0] if self.p.transpose else self.blobs[0].t()
        axis = self.axis(self.p.axis, tuple(x.shape))
        flat = x.flatten(axis)
        if flat.shape[-1] != weight.shape[0]:
            self.fail(
                f"was built for {weight.shape[0]} inputs but bottom shape {tuple(x.shape)} holds "
                f"{flat.shape[-1]} from axis {axis} on; its weights fit one input size only."
            )
        y = flat @ weight
        return y + self.blobs[1] if len(self.blobs) > 1 else y

    def forms(self, shapes: Sequence[Shape]) -> tuple[str, ...]:
        """See the class."""
        if self.axis(self.p.axis, shapes[0]) != 1:
            return ()
        return ("gemm", "matmul")

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Flatten and Gemm on axis 1, else reshape and MatMul; or another form."""
        shape = e.shape(bottoms[0])
        axis = self.axis(self.p.axis, shape)
        source = bottoms[0]
        if axis == 1 and e.form != "matmul":
            if len(shape) != 2:
                (source,) = e.op("Flatten", [source], axis=1)
            e.op(
                "Gemm", [source, *(e.blob(i) for i in range(len(self.blobs)))], tops,
                transB=0 if self.p.transpose else 1,
            )  # fmt: skip
            return
        inputs = math.prod(shape[axis:])
        if len(shape) != axis + 1:
            source = e.reshape(source, (*shape[:axis], inputs))
        weight = e.blob(0)
        if e.form == "matmul" and not self.p.transpose:
            values = self.blobs[0].detach().cpu().numpy().astype(np.float32)
            weight = e.constant(values.T, "transposed")
        elif not self.p.transpose:
            (weight,) = e.op("Transpose", [weight], perm=[1, 0])
        if len(self.blobs) == 1:
            e.op("MatMul", [source, weight], tops)
            return
        (product,) = e.op("MatMul", [source, weight])
        e.op("Add", [product, e.blob(1)], tops)

    def macs(self, shapes: Sequence[Shape]) -> int:
        """Positions * inputs * outputs."""
        return math.prod(shapes[0]) * int(self.p.num_output)
