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
        data: (batch_size, C, h, w), augmented, resized, cropped, then transformed.
        label (optional): (1, 1, number of boxes in the batch, 8), rows [item, class, instance,
            x1, y1, x2, y2, difficult], corners as shares of the picture; a batch without boxes
            has one row of -1. The declared shape has the boxes of the first record. Records
            without annotation type have (batch_size,) labels.
    Parameters:
        data_param: source, batch_size, backend (LEVELDB), prefetch (4).
        annotated_data_param: batch_sampler (random crops: sampler with scales and aspect ratios,
            sample_constraint with limits of jaccard_overlap, sample_coverage and object_coverage,
            max_sample, max_trials), anno_type (as stored; BBOX is the only one), label_map_file
            (not read, as in SSD).
        transform_param: distort_param (brightness, contrast, saturation, hue, order of channels),
            expand_param (a larger canvas of the mean's colour), emit_constraint (which boxes
            survive a crop), resize_param (WARP, FIT_SMALL_SIZE with batch_size 1,
            FIT_LARGE_SIZE_AND_PAD; one of several is drawn per batch, one of several interp_mode
            per picture), mirror (boxes too), crop_size or crop_h and crop_w, mean and scale, see
            :class:`caffe_bridge.data.DataTransformer`. A mean image has the size of the crop and
            is not flipped with the picture.
    ONNX:
        graph inputs.
    Caffe source:
        annotated_data_layer.cpp, data_transformer.cpp, sampler.cpp of the SSD fork
    Differences:
        the random numbers come from numpy, a generator for each picture. As in SSD every
        augmentation of an encoded picture ends in a JPEG of quality 95, raw pictures are not
        distorted, and boxes without area are dropped. noise_param and resize_param with unequal
        prob are refused.
    """

    param_field = "data_param"
    tops = between(1, 2)

    def make_source(self) -> Source:
        """The data base, read ahead."""
        self.batch = self.batch_size()
        return Prefetched(AnnotatedSource(self.spec, self.phase), int(self.p.prefetch))
