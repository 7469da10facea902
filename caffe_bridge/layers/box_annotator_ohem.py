"""BoxAnnotatorOHEM: R-FCN's choice of the hardest boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from caffe_bridge.errors import DataError
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.registry import register


def four(shape: Shape) -> Shape:
    """Caffe's num, channels, height and width of a shape."""
    if len(shape) > 4:
        return tuple(shape)
    return (*shape, *[1] * (4 - len(shape)))


@register("BoxAnnotatorOHEM")
class BoxAnnotatorOHEM(Layer):
    """Keeps labels and weights of the boxes of largest loss, so many in each picture.

    Bottoms:
        rois: (N, 5, h, w) or (N, 5), the picture's number first.
        loss, label: N * h * w values in Caffe's order (N, 1, h, w).
        weights: (N, C, h, w) or (N, C), weights of the boxes' loss.
    Tops:
        label: (N, 1, h, w), ignore_label for those that are not kept.
        weights: (N, C, h, w), 0 for those.
    Parameters:
        roi_per_img: boxes kept in each picture; ignore_label (-1).
    Gradient:
        none.
    ONNX:
        not possible: it chooses training examples.
    Caffe source:
        box_annotator_ohem_layer.cu of daijifeng001/caffe-rfcn
    Differences:
        of equal losses the first box is kept (there any).
    """

    param_field = "box_annotator_ohem_param"
    bottoms = exactly(4)
    tops = exactly(2)
    differentiable = False
    no_gradient_bottoms = (0, 1, 2, 3)

    def configure(self) -> None:
        """Check roi_per_img."""
        if self.p.roi_per_img < 1:
            self.fail("roi_per_img is missing or zero; give the number of boxes to keep.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Caffe's four axes of labels and weights."""
        rois, weights = four(shapes[0]), four(shapes[3])
        if len(rois) != 4 or rois[1] != 5:
            self.fail(f"bottom 0 has shape {tuple(shapes[0])}, expected (boxes, 5).")
        places = (rois[0], *rois[2:])
        for index in (1, 2):
            if math.prod(shapes[index]) != math.prod(places):
                self.fail(
                    f"bottom {index} of shape {tuple(shapes[index])} must hold one value for each "
                    f"of the {math.prod(places)} boxes."
                )
        if (weights[0], *weights[2:]) != places:
            self.fail(
                f"weights of shape {tuple(shapes[3])} do not fit boxes of shape {tuple(shapes[0])}."
            )
        return [(rois[0], 1, *rois[2:]), weights]

    def forward(self, rois: Tensor, loss: Tensor, label: Tensor, weights: Tensor) -> list[Tensor]:
        """Keep the largest losses of each picture.

        Raises:
            DataError: a picture's number is negative.
        """
        rois, weights = (
            rois.reshape(four(tuple(rois.shape))),
            weights.reshape(four(tuple(weights.shape))),
        )
        pictures = rois[:, 0].reshape(-1).long()
        if bool((pictures < 0).any()):
            raise DataError(f"{self.spec.label()}: a box belongs to picture {int(pictures.min())}.")
        order = loss.reshape(-1).argsort(descending=True, stable=True)
        kept = torch.zeros_like(pictures, dtype=torch.bool)
        for picture in pictures.unique():
            own = order[pictures[order] == picture]
            kept[own[: int(self.p.roi_per_img)]] = True
        mask = kept.reshape(rois.shape[0], 1, *rois.shape[2:])
        labels = label.reshape(mask.shape).where(mask, label.new_tensor(self.p.ignore_label))
        return [labels, weights * mask]

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Not possible."""
        self.refuse("chooses training examples; export the net of the TEST phase.")
