"""HDF5Output: write blobs into an HDF5 file."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.data import Hdf5Writer
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register


@register("HDF5Output")
class HDF5Output(Layer):
    """Collect the two bottoms of every forward pass as datasets ``data`` and ``label``.

    Bottoms:
        data: (N, ...); label: (N, ...).
    Tops:
        none.
    Parameters:
        file_name: required. The file appears, whole, when :meth:`close` is called, when the layer
            is no longer used, or when Python ends; until then rows are in a hidden file beside it.
    Gradient:
        none; the layer stops it.
    ONNX:
        no node.
    Caffe source:
        hdf5_output_layer.cpp
    Differences:
        several forward passes add rows; Caffe aborts in the second one.
    """

    param_field = "hdf5_output_param"
    bottoms = exactly(2)
    tops = exactly(0)
    differentiable = False

    def configure(self) -> None:
        """Check that there is a file name."""
        self.writer: Hdf5Writer | None = None
        if not self.p.file_name:
            self.fail("gives no hdf5_output_param.file_name; name the file to write.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Nothing, once both bottoms have rows, equally many."""
        rows = [tuple(shape[:1]) for shape in shapes]
        if not rows[0] or rows[0] != rows[1]:
            self.fail(
                f"takes bottoms with equally many rows, found shapes {tuple(shapes[0])} and "
                f"{tuple(shapes[1])}."
            )
        return []

    def forward(self, data: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        """Add the rows.

        Raises:
            DataError: the file cannot be written, or is closed.
        """
        if self.writer is None:
            self.writer = Hdf5Writer(self.p.file_name, ("data", "label"), self.spec.label())
        self.writer.append([blob.detach().cpu().numpy() for blob in (data, label)])
        return ()

    def close(self) -> None:
        """Give the file its name; later passes are errors."""
        if self.writer is not None:
            self.writer.close()

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Nothing."""
