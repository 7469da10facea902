"""``caffe.Classifier``: a net that labels pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from caffe_bridge.pycaffe.io import Transformer, check_batch
from caffe_bridge.pycaffe.net import TEST, Net
from caffe_bridge.pycaffe.resample import oversample as ten_crops
from caffe_bridge.pycaffe.resample import resize_image


def picture_transformer(
    net: Net,
    mean: np.ndarray | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> Transformer:
    """A Transformer for the net's first input that takes pictures (H, W, K)."""
    name = net.inputs[0]
    made = Transformer({name: net.blobs[name].shape})
    made.set_transpose(name, (2, 0, 1))
    if mean is not None:
        made.set_mean(name, mean)
    if input_scale is not None:
        made.set_input_scale(name, input_scale)
    if raw_scale is not None:
        made.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        made.set_channel_swap(name, channel_swap)
    return made


class Classifier(Net):
    """Labels pictures: resize to ``image_dims``, crop to the net's input, run, average.

    Args:
        model_file: deploy prototxt.
        pretrained_file: its weights.
        image_dims: (height, width) before cropping; the input's size by default.
        mean, input_scale, raw_scale, channel_swap: see ``caffe.io.Transformer``.

    Raises:
        BridgeError: the files do not fit.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        image_dims: Sequence[int] | None = None,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = picture_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims = np.array(self.crop_dims if image_dims is None else image_dims)

    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Scores of the pictures.

        Args:
            inputs: N pictures (H, W, K) as ``caffe.io.load_image`` gives.
            oversample: average over ten crops; else the centre crop alone.

        Returns:
            float32, the net's first output: (N, classes), or of centre crops in its own shape.

        Raises:
            BridgeError: pictures that do not fit.
        """
        check_batch(inputs)
        resized = np.stack([resize_image(np.asarray(i), self.image_dims) for i in inputs])
        if oversample:
            crops = ten_crops(resized, self.crop_dims)
        else:
            top, left = (self.image_dims - self.crop_dims) // 2
            height, width = self.crop_dims
            crops = resized[:, top : top + height, left : left + width]
        name = self.inputs[0]
        batch = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        scores = self.forward_all(None, **{name: batch})[self.outputs[0]]
        if not oversample:
            return scores
        return scores.reshape(len(inputs), len(batch) // len(inputs), -1).mean(1)
