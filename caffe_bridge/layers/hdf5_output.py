"""HDF5Output: write blobs into an HDF5 file."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from caffe_bridge.data import Hdf5Writer
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register

#: Caffe writes a blob as num, channels, height and width.
_AXES = 4


@register("HDF5Output")
class HDF5Output(Layer):
    """Collect the two bottoms of every forward pass as datasets ``data`` and ``label``.

    The datasets have four axes (N, C, H, W); those that a bottom lacks are 1, as in Caffe.

    Bottoms:
        data: (N, ...); label: (N, ...), of up to four axes.
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
        """Nothing, once both bottoms have up to four axes and equally many rows."""
        largest = max(shapes, key=len)
        if len(largest) > _AXES:
            self.fail(
                f"writes bottoms of up to {_AXES} axes, found shape {tuple(largest)}; reshape it."
            )
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
        rows = [blob.detach().cpu().numpy() for blob in (data, label)]
        self.writer.append([x.reshape(x.shape + (1,) * (_AXES - x.ndim)) for x in rows])
        return ()

    def close(self) -> None:
        """Give the file its name; later passes are errors."""
        if self.writer is not None:
            self.writer.close()

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Nothing."""
