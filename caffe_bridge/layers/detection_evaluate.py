"""DetectionEvaluate: which detections are right, for the mean average precision of a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.errors import DataError
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, exactly
from caffe_bridge.layers.box import overlap
from caffe_bridge.layers.registry import register

Rows = dict[int, dict[int, np.ndarray]]


@register("DetectionEvaluate")
class DetectionEvaluate(Layer):
    """Compare each detection with the ground truth of its image and class.

    By falling score, a detection whose best overlap with a true box is at least overlap_threshold
    is a true positive if it is that box's first, else a false positive; so is one with less
    overlap. One that finds a difficult box is neither unless evaluate_difficult_gt.

    Bottoms:
        detections: (1, 1, D, 7) rows of image, label, score, xmin, ymin, xmax, ymax.
        truth: (1, 1, G, 8) rows of image, label, instance, xmin, ymin, xmax, ymax, difficult.
    Tops:
        result: (1, 1, C + D, 5): for each class but the background -1, class, number of true
        boxes, -1, -1; then for each detection image, label, score, true positive, false positive.
    Parameters:
        num_classes, background_label_id (0), overlap_threshold (0.5), evaluate_difficult_gt (true).
        name_size_file (none): lines of name, height and width; images are compared in their pixels,
        last pixel included. The file is read in the first pass.
        resize_param: WARP only, with name_size_file.
    Gradient:
        none.
    ONNX:
        refused: it has no operator that marks boxes one after the other.
    Caffe source:
        detection_evaluate_layer.cpp, bbox_util.cpp of weiliu89/caffe, branch ssd
    Differences:
        rows of zeros, with which DetectionOutput fills up, are left out; detections of equal score
        stay in their order.
    """

    param_field = "detection_evaluate_param"
    bottoms = exactly(2)
    differentiable = False
    no_gradient_bottoms = (0, 1)
    open_axis = 2
    carried = ("seen",)

    def configure(self) -> None:
        """Read and check the parameters."""
        self.seen = 0
        self.sizes: list[tuple[int, int]] | None = None
        self.background = int(self.p.background_label_id)
        self.labels = [c for c in range(int(self.p.num_classes)) if c != self.background]
        if not self.labels:
            self.fail("num_classes is missing or too small; give the classes, background included.")
        if self.p.overlap_threshold <= 0:
            self.fail(f"overlap_threshold {self.p.overlap_threshold} must be positive.")
        mode = self.p.resize_param.resize_mode if self.p.has("resize_param") else "WARP"
        if self.p.name_size_file and mode != "WARP":
            self.fail(f"resize_mode {mode} is not supported with name_size_file; use WARP.")

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """A row for each class and detection."""
        for position, (shape, columns) in enumerate(zip(shapes, (7, 8), strict=True)):
            if len(shape) != 4 or tuple(shape[:2]) != (1, 1) or shape[3] != columns:
                self.fail(
                    f"bottom {position} of shape {tuple(shape)} must be (1, 1, rows, {columns})."
                )
        return [(1, 1, len(self.labels) + shapes[0][2], 5)]

    def forward(self, detections: Tensor, truth: Tensor) -> Tensor:
        """The table of all classes and detections."""
        found = self.table(detections, 0)
        true = self.table(truth, 1)
        rows = [[-1.0, label, self.count(true, label), -1.0, -1.0] for label in self.labels]
        for image, classes in sorted(found.items()):
            size = self.next_size()
            for label, own in sorted(classes.items()):
                if label != -1:
                    right = true.get(image, {}).get(label)
                    marks = self.compare(own, right, size)
                    rows += [[image, label, *mark] for mark in marks]
        return torch.tensor(rows).to(detections)[None, None]

    def table(self, values: Tensor, position: int) -> Rows:
        """Rows of a bottom by image and label, in their order."""
        array = values.detach().reshape(-1, values.shape[3]).cpu().numpy()
        array = array[(array[:, 0] != -1) & (array != 0).any(1)]
        if (array[:, 1] == self.background).any():
            raise DataError(
                f"{self.spec.label()}: bottom {position} has a box of the background label "
                f"{self.background}; correct the labels or background_label_id."
            )
        keys = array[:, :2].astype(np.int64)
        return {
            int(image): {
                int(label): array[(keys == (image, label)).all(1)]
                for label in np.unique(keys[keys[:, 0] == image, 1])
            }
            for image in np.unique(keys[:, 0])
        }

    def count(self, true: Rows, label: int) -> float:
        """How many true boxes of a class are to be found."""
        own = [classes[label] for classes in true.values() if label in classes]
        hard = self.p.evaluate_difficult_gt
        return float(sum(len(rows) if hard else (rows[:, 7] == 0).sum() for rows in own))

    def next_size(self) -> tuple[int, int] | None:
        """Height and width of the next image of name_size_file; None without one."""
        if not self.p.name_size_file:
            return None
        if self.sizes is None:
            self.sizes = self.read_sizes()
        size = self.sizes[self.seen % len(self.sizes)]
        self.seen = (self.seen + 1) % len(self.sizes)
        return size

    def read_sizes(self) -> list[tuple[int, int]]:
        """Heights and widths in name_size_file.

        Raises:
            DataError: the file cannot be read, or is not of lines of name, height and width.
        """
        try:
            words = Path(self.p.name_size_file).read_text(encoding="utf-8").split()
            sizes = [(int(h), int(w)) for h, w in zip(words[1::3], words[2::3], strict=True)]
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.spec.label()}: cannot read name_size_file '{self.p.name_size_file}' "
                f"({error}); give lines of name, height and width."
            ) from error
        if not sizes:
            raise DataError(f"{self.spec.label()}: '{self.p.name_size_file}' is empty.")
        return sizes

    def compare(
        self, own: np.ndarray, true: np.ndarray | None, size: tuple[int, int] | None
    ) -> list[list[float]]:
        """Score, true positive and false positive of the detections of an image and class."""
        if true is None:
            return [[float(score), 0.0, 1.0] for score in own[:, 2]]
        own = own[np.argsort(-own[:, 2], kind="stable")]
        places, goals = own[:, 3:7], true[:, 3:7]
        if size is not None:
            factors = np.array([size[1], size[0]] * 2, own.dtype)
            places, goals = places.clip(0, 1) * factors, goals.clip(0, 1) * factors
        taken: set[int] = set()
        rows = []
        for score, place in zip(own[:, 2], places, strict=True):
            shares = overlap(place, goals) if size is None else _pixel_overlap(place, goals)
            best = int(shares.argmax())
            right, wrong = 0.0, 1.0
            if shares[best] >= np.float32(self.p.overlap_threshold):
                if true[best, 7] and not self.p.evaluate_difficult_gt:
                    wrong = 0.0
                elif best not in taken:
                    right, wrong = 1.0, 0.0
                    taken.add(best)
            rows.append([float(score), right, wrong])
        return rows

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Not possible."""
        self.refuse("compares detections one after the other, which ONNX cannot; take it away.")


def _pixel_overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes in pixels, x2 - x1 + 1 wide; 0 for those that are apart."""
    apart = ((box[:2] > others[:, 2:]) | (box[2:] < others[:, :2])).any(1)
    last = np.array([0, 0, 1, 1], others.dtype)
    return np.where(apart, 0, overlap(box + last, others + last))
