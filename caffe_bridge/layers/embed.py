"""Embed: look up vectors by number."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer
from caffe_bridge.layers.registry import register

#: ONNX's number of the element type int64.
_INT64 = 7


@register("Embed")
class Embed(Layer):
    """Row ``int(x)`` of a table: ``y = w[x] + b``, an InnerProduct on one-hot vectors.

    Bottoms:
        x: row numbers, any shape; fractions are cut off.
    Tops:
        y: (*x.shape, num_output).
    Blobs:
        weight: (input_dim, num_output), ``weight_filler``; transposed against InnerProduct.
        bias: (num_output,), ``bias_filler``, unless ``bias_term: false``.
    Parameters:
        input_dim, num_output, bias_term (true).
    Gradient:
        none for x.
    ONNX:
        Cast and Gather, Add of the bias.
    Caffe source:
        embed_layer.cpp
    Differences:
        a number outside the table is an error; Caffe checks it in debug builds only.
    """

    param_field = "embed_param"
    no_gradient_bottoms = (0,)

    def configure(self) -> None:
        """Check the size of the table."""
        for name in ("num_output", "input_dim"):
            if getattr(self.p, name) < 1:
                self.fail(f"{name} is missing or zero; give the size of the table.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The bottom's axes and num_output."""
        return [(*shapes[0], int(self.p.num_output))]

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Table, and bias unless switched off."""
        rows, outputs = int(self.p.input_dim), int(self.p.num_output)
        specs = [BlobSpec((rows, outputs), self.p.weight_filler, "weight")]
        if self.p.bias_term:
            specs.append(BlobSpec((outputs,), self.p.bias_filler, "bias"))
        return specs

    def forward(self, x: Tensor) -> Tensor:
        """Look up and add the bias.

        Raises:
            ShapeError: a number outside the table.
        """
        index = x.detach().long()
        wrong = index[(index < 0) | (index >= self.p.input_dim)]
        if wrong.numel():
            self.fail(
                f"bottom '{self.spec.bottoms[0]}' holds {int(wrong[0])}; the table has rows 0 to "
                f"{self.p.input_dim - 1}."
            )
        y = functional.embedding(index, self.blobs[0])
        return y + self.blobs[1] if len(self.blobs) > 1 else y

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Cast, Gather, Add."""
        (index,) = e.op("Cast", bottoms, to=_INT64)
        if len(self.blobs) == 1:
            e.op("Gather", [e.blob(0), index], tops, axis=0)
            return
        (rows,) = e.op("Gather", [e.blob(0), index], axis=0)
        e.op("Add", [rows, e.blob(1)], tops)
