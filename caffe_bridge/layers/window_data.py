"""WindowData: windows of pictures as R-CNN trains on them."""

from __future__ import annotations

from caffe_bridge.data import Prefetched, Source, WindowSource
from caffe_bridge.layers.base import exactly
from caffe_bridge.layers.data_layer import DataLayer
from caffe_bridge.layers.registry import register


@register("WindowData")
class WindowData(DataLayer):
    """Windows of pictures, drawn at random, warped to a square.

    Bottoms:
        none.
    Tops:
        data: (batch_size, 3, crop_size, crop_size), BGR; label: (batch_size,), 0 = background.
            Background comes first.
    Parameters:
        source: window file, see :class:`caffe_bridge.data.WindowSource`.
        batch_size, fg_fraction (0.25: share of objects), fg_threshold (0.5), bg_threshold (0.5),
        context_pad (0: pixels around the window after warping), crop_mode (warp; square: as wide
        as high before warping), cache_images (false), root_folder (""), scale (1: factor after
        the mean; as in Caffe that of transform_param has no effect).
        transform_param: crop_size (required), mirror, mean_file or mean_value.
    ONNX:
        graph inputs.
    Caffe source:
        window_data_layer.cpp
    Differences:
        the random numbers come from numpy.
    """

    param_field = "window_data_param"
    tops = exactly(2)
    #: Batches made ahead, the number that Caffe has for all prefetching layers.
    ahead = 4

    def make_source(self) -> Source:
        """The window file, read ahead."""
        self.batch = self.batch_size()
        return Prefetched(WindowSource(self.spec, self.phase), self.ahead)
