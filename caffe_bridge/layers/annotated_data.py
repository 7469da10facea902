"""AnnotatedData: pictures with boxes from SSD's data bases."""

from __future__ import annotations

from caffe_bridge.data import AnnotatedSource, Prefetched, Source
from caffe_bridge.layers.base import between
from caffe_bridge.layers.data_layer import DataLayer
from caffe_bridge.layers.registry import register


@register("AnnotatedData")
class AnnotatedData(DataLayer):
    """Pictures and boxes of an LMDB or LevelDB of AnnotatedDatum records, in the order of keys.

    Bottoms:
        none.
    Tops:
        data: (batch_size, C, h, w), resized, then transformed.
        label (optional): (1, 1, number of boxes in the batch, 8), rows [item, class, instance,
            x1, y1, x2, y2, difficult], corners as shares of the picture; a batch without boxes
            has one row of -1. The declared shape has the boxes of the first record. Records
            without annotation type have (batch_size,) labels.
    Parameters:
        data_param: source, batch_size, backend (LEVELDB), prefetch (4).
        annotated_data_param: anno_type (as stored; BBOX is the only one).
        transform_param: resize_param (WARP; of several one is drawn, so of interp_mode), mirror
            (boxes too), mean and scale, see :class:`caffe_bridge.data.DataTransformer`.
    ONNX:
        graph inputs.
    Caffe source:
        annotated_data_layer.cpp of the SSD fork
    Differences:
        SSD's random augmentations (batch_sampler with a sampler or constraint, expand_param,
        distort_param, noise_param) and crop_size are refused.
    """

    param_field = "data_param"
    tops = between(1, 2)

    def make_source(self) -> Source:
        """The data base, read ahead."""
        self.batch = self.batch_size()
        return Prefetched(AnnotatedSource(self.spec, self.phase), int(self.p.prefetch))
