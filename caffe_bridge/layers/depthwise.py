"""DepthwiseConvolution: a convolution with one group for every channel."""

from __future__ import annotations

from caffe_bridge.graph import Shape
from caffe_bridge.layers.convolution import Convolution
from caffe_bridge.layers.registry import register


@register("DepthwiseConvolution", "ConvolutionDepthwise", "DepthwiseConv")
class DepthwiseConvolution(Convolution):
    """Convolution of every channel on its own: :class:`Convolution` with ``group = C``.

    Bottoms:
        x_1 .. x_m: (N, C, *spatial).
    Tops:
        y_1 .. y_m: (N, num_output, *spatial); num_output is a multiple of C, mostly C.
    Blobs:
        weight: (num_output, 1, *kernel), ``weight_filler``.
        bias: (num_output,), ``bias_filler``, unless ``bias_term: false``.
    Parameters:
        as Convolution; group may be left out, else it must be C.
    ONNX:
        Conv with group = C and explicit pads.
    Caffe source:
        conv_dw_layer.cpp, depthwise_conv_layer.cpp of the MobileNet forks
    Differences:
        several filters for a channel are allowed.
    """

    def configure(self) -> None:
        """Check what needs no channels; the group is known with the bottom's shape."""
        self._group = 1
        super().configure()

    @property
    def group(self) -> int:
        """Number of channels."""
        return self._group

    def channels(self, shape: Shape) -> int:
        """Channels of the bottom, which are the groups.

        Raises:
            ShapeError: a given group is another number, or num_output is no multiple of it.
        """
        self._group = shape[self.axis(self.p.axis, shape)]
        if self.p.has("group") and self.p.group != self._group:
            self.fail(
                f"group is {self.p.group} but bottom '{self.spec.bottoms[0]}' has {self._group} "
                "channels; leave group out, or use Convolution."
            )
        if self.p.num_output % self._group:
            self.fail(
                f"num_output {self.p.num_output} is no multiple of the {self._group} channels of "
                f"bottom '{self.spec.bottoms[0]}'; give each channel equally many filters."
            )
        return super().channels(shape)
