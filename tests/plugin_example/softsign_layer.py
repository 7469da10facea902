"""A layer type for caffe_bridge in a package of its own."""

from caffe_bridge.layers.base import BlobSpec, Layer
from caffe_bridge.layers.registry import register
from caffe_bridge.schema import Record


@register("Softsign")
class Softsign(Layer):
    """Softsign with a learned gain: ``y = g x / (1 + |x|)``; g starts at 1."""

    def blob_specs(self, shapes):
        return [BlobSpec((1,), Record("FillerParameter", type="constant", value=1.0))]

    def forward(self, x):
        return self.blobs[0] * x / (1 + x.abs())

    def emit(self, e, bottoms, tops):
        (unit,) = e.op("Softsign", bottoms)
        e.op("Mul", [unit, e.blob(0)], tops)
