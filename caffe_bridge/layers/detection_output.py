"""DetectionOutput: from locations and scores to the detections of a single-shot detector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.box import decode, suppress
from caffe_bridge.layers.loss import FLOAT, INT64, scalar
from caffe_bridge.layers.registry import register

_FLOAT_MAX = float(np.finfo(np.float32).max)


@register("DetectionOutput")
class DetectionOutput(Layer):
    """Decode boxes, drop overlapping ones in each class, keep the best of each image.

    Bottoms:
        loc: (N, P * L * 4) locations; L = 1, or num_classes without share_location.
        conf: (N, P * num_classes) scores.
        prior: (1, 2, P * 4) default boxes and their variances.
    Tops:
        detections: (1, 1, D, 7) rows of image, label, score, xmin, ymin, xmax, ymax, by image,
        label and falling score; without any, one row of -1 for each image after its number.
        D = N keep_top_k, rows of zeros behind the detections; with keep_top_k below 1 there are as
        many rows as detections, and the declared D is 1.
    Parameters:
        num_classes, share_location (true), background_label_id (0, none: -1), code_type (CORNER),
        variance_encoded_in_target (false), confidence_threshold (none): only scores above it;
        nms_param: nms_threshold (0.3), top_k (all), eta (1); keep_top_k (-1: all): of each image.
    Gradient:
        none.
    ONNX:
        NonMaxSuppression, TopK, GatherND, ConstantOfShape; ``eta`` below 1 is refused.
    Caffe source:
        detection_output_layer.cpp, bbox_util.cpp of weiliu89/caffe, branch ssd
    Differences:
        SSD's own code gives as many rows as there are detections whatever keep_top_k is; the rows
        of zeros, as OpenCV has them, have score 0, so whoever takes rows by their score sees no
        difference. Boxes of equal score stay in the order of label and index; nothing is drawn
        or saved (visualize, save_output_param).
    """

    param_field = "detection_output_param"
    bottoms = exactly(3)
    differentiable = False
    no_gradient_bottoms = (0, 1, 2)
    open_axis = 2

    def configure(self) -> None:
        """Read and check the parameters."""
        nms = self.p.nms_param
        self.classes = int(self.p.num_classes)
        if self.classes < 1:
            self.fail("num_classes is missing or zero; give the classes, background included.")
        self.background = int(self.p.background_label_id)
        self.loc_classes = 1 if self.p.share_location else self.classes
        self.threshold, self.eta = float(nms.nms_threshold), float(nms.eta)
        if self.threshold < 0 or not 0 < self.eta <= 1:
            self.fail(
                f"nms_threshold {self.threshold} must not be negative, and eta {self.eta} must be "
                "above 0 and at most 1."
            )
        self.top_k = int(nms.top_k) if nms.has("top_k") else -1
        self.keep = int(self.p.keep_top_k)
        self.least = -_FLOAT_MAX
        if self.p.has("confidence_threshold"):
            self.least = float(self.p.confidence_threshold)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """(1, 1, N keep_top_k, 7); without keep_top_k the number of rows is not known: 1."""
        loc, conf, prior = (tuple(shape) for shape in shapes)
        boxes = prior[2] // 4 if len(prior) > 2 else 0
        rows = [int(np.prod(shape[1:])) for shape in (loc, conf)]
        if (
            boxes < 1
            or loc[0] != conf[0]
            or rows != [boxes * self.loc_classes * 4, boxes * self.classes]
        ):
            self.fail(
                f"bottoms of shapes {loc}, {conf} and {prior} do not fit: for the {boxes} boxes of "
                f"bottom 2 give locations (N, {boxes * self.loc_classes * 4}) and scores "
                f"(N, {boxes * self.classes})."
            )
        return [(1, 1, max(1, loc[0] * self.keep), 7)]

    def forward(self, loc: Tensor, conf: Tensor, prior: Tensor) -> Tensor:
        """Detections of all images."""
        number = loc.shape[0]
        priors, variances = prior.reshape(2, -1, 4)
        factors = None if self.p.variance_encoded_in_target else variances
        split = loc.reshape(number, -1, self.loc_classes, 4).transpose(1, 2)
        boxes = decode(split, priors, factors, self.p.code_type).cpu().numpy()
        scores = conf.reshape(number, -1, self.classes).transpose(1, 2).cpu().numpy()
        rows = [
            row
            for image in range(number)
            for row in self.detect(image, boxes[image], scores[image])
        ]
        if not rows:
            rows = [[float(image), *[-1.0] * 6] for image in range(number)]
        rows += [[0.0] * 7] * (number * self.keep - len(rows))
        return torch.tensor(rows).to(loc)[None, None]

    def detect(self, image: int, boxes: np.ndarray, scores: np.ndarray) -> list[list[float]]:
        """Rows of one image from boxes (L, P, 4) and scores (num_classes, P)."""
        found = []
        for label in range(self.classes):
            if label == self.background:
                continue
            own = boxes[0 if self.p.share_location else label]
            kept = suppress(
                own, scores[label], self.least, self.threshold, self.eta, self.top_k
            ).tolist()
            found += [[float(image), float(label), scores[label, i], *own[i]] for i in kept]
        if -1 < self.keep < len(found):
            order = np.argsort([-row[2] for row in found], kind="stable")[: self.keep]
            found = [found[i] for i in sorted(order.tolist())]
        return found

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Decode, suppress, keep the best and join the rows."""
        if self.eta < 1:
            self.refuse(f"lowers the NMS threshold by eta {self.eta}; ONNX can only keep it (1).")
        boxes = self.emit_boxes(e, bottoms[0], bottoms[2])
        scores = self.emit_scores(e, bottoms[1], e.shape(bottoms[2])[2] // 4)
        chosen = self.emit_suppression(e, boxes, scores, e.shape(bottoms[2])[2] // 4)
        (values,) = e.op("GatherND", [scores, chosen])
        (shape,) = e.op("Shape", [bottoms[1]])
        (number,) = e.op("Gather", [shape, _ints(e, 0, "first")])
        (images,) = e.op("Range", [_ints(e, 0, "first"), number, _ints(e, 1, "next")])
        if self.keep > -1:
            chosen, values = self.emit_keep(e, chosen, values, images)
        self.emit_rows(e, boxes, chosen, values, images, number, tops[0])

    def emit_boxes(self, e: Emitter, loc: str, prior: str) -> str:
        """Decoded boxes (N, L, P, 4)."""
        (loc,) = e.op("Reshape", [loc, _ints(e, [0, -1, self.loc_classes, 4], "loc")])
        (loc,) = e.op("Transpose", [loc], perm=[0, 2, 1, 3])
        (both,) = e.op("Reshape", [prior, _ints(e, [2, -1, 4], "prior")])
        priors, variances = e.op("Split", [both, _ints(e, [1, 1], "halves")], 2, axis=0)
        if not self.p.variance_encoded_in_target:
            (loc,) = e.op("Mul", [loc, variances])
        if self.p.code_type == "CORNER":
            return e.op("Add", [priors, loc])[0]
        two = _ints(e, [2, 2], "corners")
        low, high = e.op("Split", [priors, two], 2, axis=2)
        (size,) = e.op("Sub", [high, low])
        if self.p.code_type == "CORNER_SIZE":
            (sizes,) = e.op("Concat", [size, size], axis=2)
            (loc,) = e.op("Mul", [loc, sizes])
            return e.op("Add", [priors, loc])[0]
        half = scalar(e, 0.5, "half")
        shift, ratio = e.op("Split", [loc, two], 2, axis=3)
        (shift,) = e.op("Mul", [shift, size])
        (middle,) = e.op("Add", [low, high])
        (middle,) = e.op("Mul", [middle, half])
        (centre,) = e.op("Add", [shift, middle])
        (ratio,) = e.op("Exp", [ratio])
        (sides,) = e.op("Mul", [ratio, size])
        (sides,) = e.op("Mul", [sides, half])
        (low,) = e.op("Sub", [centre, sides])
        (high,) = e.op("Add", [centre, sides])
        return e.op("Concat", [low, high], axis=3)[0]

    def emit_scores(self, e: Emitter, conf: str, boxes: int) -> str:
        """Scores (N, C, P), -inf for the background and beyond the best top_k of a class."""
        (scores,) = e.op("Reshape", [conf, _ints(e, [0, boxes, self.classes], "conf")])
        (scores,) = e.op("Transpose", [scores], perm=[0, 2, 1])
        never = scalar(e, -np.inf, "never")
        if 0 <= self.background < self.classes:
            mask = (np.arange(self.classes) == self.background)[None, :, None]
            (scores,) = e.op("Where", [e.constant(mask, "background"), never, scores])
        if -1 < self.top_k < boxes:
            best, places = e.op("TopK", [scores, _ints(e, [self.top_k], "top_k")], 2, axis=2)
            (shape,) = e.op("Shape", [scores])
            (empty,) = e.op("Expand", [never, shape])
            (scores,) = e.op("ScatterElements", [empty, places, best], axis=2)
        return scores

    def emit_suppression(self, e: Emitter, boxes: str, scores: str, number: int) -> str:
        """Image, class and box (M, 3) of what remains; classes with own boxes run as images."""
        limits = [
            _ints(e, [np.iinfo(np.int32).max], "all"),
            e.constant(np.array([self.threshold], np.float32), "nms_threshold"),
            e.constant(np.array([self.least], np.float32), "confidence_threshold"),
        ]
        if self.p.code_type != "CENTER_SIZE":
            # Inverted boxes have no area here, but NonMaxSuppression would turn them round.
            low, high = e.op("Split", [boxes, _ints(e, [2, 2], "corners")], 2, axis=3)
            (high,) = e.op("Max", [low, high])
            (boxes,) = e.op("Concat", [low, high], axis=3)
        (flat,) = e.op("Reshape", [boxes, _ints(e, [-1, number, 4], "flat")])
        if self.p.share_location:
            return e.op("NonMaxSuppression", [flat, scores, *limits])[0]
        (each,) = e.op("Reshape", [scores, _ints(e, [-1, 1, number], "each")])
        (chosen,) = e.op("NonMaxSuppression", [flat, each, *limits])
        both, _, box = e.op("Split", [chosen, _ints(e, [1, 1, 1], "thirds")], 3, axis=1)
        (image,) = e.op("Div", [both, _ints(e, self.classes, "classes")])
        (label,) = e.op("Mod", [both, _ints(e, self.classes, "classes")])
        return e.op("Concat", [image, label, box], axis=1)[0]

    def emit_keep(self, e: Emitter, chosen: str, values: str, images: str) -> tuple[str, str]:
        """The best keep_top_k rows of each image, in their old order."""
        (image,) = e.op("Gather", [chosen, _ints(e, [0], "column")], axis=1)
        (image,) = e.op("Transpose", [image], perm=[1, 0])
        (column,) = e.op("Unsqueeze", [images, _ints(e, [1], "one")])
        (own,) = e.op("Equal", [image, column])
        (table,) = e.op("Where", [own, values, scalar(e, -np.inf, "never")])
        (count,) = e.op("Shape", [values])
        (count,) = e.op("Min", [count, _ints(e, [self.keep], "keep_top_k")])
        best, places = e.op("TopK", [table, count], 2, axis=1)
        (real,) = e.op("Greater", [best, scalar(e, -np.inf, "never")])
        line = _ints(e, [-1], "line")
        (real,) = e.op("Reshape", [real, line])
        (places,) = e.op("Reshape", [places, line])
        (places,) = e.op("Compress", [places, real], axis=0)
        (count,) = e.op("Shape", [places])
        places = e.op("TopK", [places, count], 2, axis=0, largest=0)[0]
        (chosen,) = e.op("Gather", [chosen, places], axis=0)
        return chosen, e.op("Gather", [values, places], axis=0)[0]

    def emit_rows(
        self, e: Emitter, boxes: str, chosen: str, values: str, images: str, number: str, top: str
    ) -> None:
        """Rows of what was chosen; when there is none a row of -1 for each image; then zeros."""
        image, label, box = e.op("Split", [chosen, _ints(e, [1, 1, 1], "thirds")], 3, axis=1)
        where = label if not self.p.share_location else e.op("Sub", [label, label])[0]
        (place,) = e.op("Concat", [image, where, box], axis=1)
        (corners,) = e.op("GatherND", [boxes, place])
        image, label = (e.op("Cast", [value], to=FLOAT)[0] for value in (image, label))
        one = _ints(e, [1], "one")
        (score,) = e.op("Unsqueeze", [values, one])
        (rows,) = e.op("Concat", [image, label, score, corners], axis=1)
        (numbers,) = e.op("Cast", [images], to=FLOAT)
        (numbers,) = e.op("Unsqueeze", [numbers, one])
        first = np.eye(1, 7, dtype=np.float32)
        (blanks,) = e.op("Mul", [numbers, e.constant(first, "image")])
        (blanks,) = e.op("Add", [blanks, e.constant(first - 1, "blank")])
        (count,) = e.op("Size", [values])
        (none,) = e.op("Equal", [count, _ints(e, 0, "first")])
        (none,) = e.op("Cast", [none], to=INT64)
        (end,) = e.op("Mul", [none, number])
        (end,) = e.op("Unsqueeze", [end, _ints(e, [0], "column")])
        (blanks,) = e.op("Slice", [blanks, _ints(e, [0], "column"), end, _ints(e, [0], "column")])
        (rows,) = e.op("Concat", [rows, blanks], axis=0)
        if self.keep > 0:
            rows = self.emit_zeros(e, rows, number)
        e.op("Reshape", [rows, _ints(e, [1, 1, -1, 7], "rows")], [top])

    def emit_zeros(self, e: Emitter, rows: str, number: str) -> str:
        """The rows (D, 7), filled up with zeros to keep_top_k for each image."""
        (wanted,) = e.op("Mul", [number, _ints(e, self.keep, "keep_top_k")])
        (size,) = e.op("Shape", [rows])
        (have,) = e.op("Gather", [size, _ints(e, 0, "first")])
        (missing,) = e.op("Sub", [wanted, have])
        (missing,) = e.op("Unsqueeze", [missing, _ints(e, [0], "column")])
        (shape,) = e.op("Concat", [missing, _ints(e, [7], "seven")], axis=0)
        (zeros,) = e.op("ConstantOfShape", [shape])
        return e.op("Concat", [rows, zeros], axis=0)[0]


def _ints(e: Emitter, value: object, hint: str) -> str:
    return e.constant(np.array(value, np.int64), hint)
