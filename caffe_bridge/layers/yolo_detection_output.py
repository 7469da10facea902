"""YoloDetectionOutput, Yolov3DetectionOutput: from a YOLO net's maps to detections."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Emitter, Layer, at_least, between
from caffe_bridge.layers.box import overlap
from caffe_bridge.layers.registry import register


def suppress_all(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the boxes (K, 4) that no better one overlaps by ``threshold`` or more."""
    rest = np.argsort(-scores, kind="stable")
    kept = []
    while rest.size:
        kept.append(rest[0])
        apart = overlap(boxes[rest[0]], boxes[rest[1:]]) < threshold
        rest = rest[1:][apart]
    return np.array(kept, np.int64)


class YoloOutput(Layer):
    """Base of the two: cells to candidates, suppression over all classes, rows."""

    differentiable = False
    open_axis = 2

    def configure(self) -> None:
        """Read what both have."""
        self.classes, self.number = int(self.p.num_classes), int(self.p.num_box)
        if self.classes < 1 or self.number < 1:
            self.fail(f"num_classes {self.classes} and num_box {self.number} must be positive.")
        self.sizes = np.array(self.p.biases, np.float64)
        if len(self.sizes) % 2:
            self.fail(f"biases has {len(self.sizes)} values; give pairs of width and height.")
        self.sizes = self.sizes.reshape(-1, 2)

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """A row for each image; how many there are is not known."""
        wanted = self.number * (5 + self.classes)
        for position, shape in enumerate(shapes):
            if len(shape) != 4 or shape[1] != wanted or shape[0] != shapes[0][0]:
                self.fail(
                    f"bottom {position} of shape {tuple(shape)} must have the {wanted} channels of "
                    f"{self.number} boxes, each of 4 places, 1 chance and {self.classes} classes, "
                    "and as many images as bottom 0."
                )
        return [(1, 1, shapes[0][0], 7)]

    @abstractmethod
    def anchors(self, position: int, height: int, width: int) -> np.ndarray:
        """Widths and heights (num_box, 2) of a bottom's anchors as shares of the image."""

    @abstractmethod
    def candidates(self, chance: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Box, class and score of what is confident enough in (K,) chances and (K, C) values."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Detections of all images; rows of -1 when there is none at all."""
        number = bottoms[0].shape[0]
        rows = [row for image in range(number) for row in self.detect(image, bottoms)]
        rows = rows or [[float(image), *[-1.0] * 6] for image in range(number)]
        return torch.tensor(rows).to(bottoms[0])[None, None]

    def detect(self, image: int, bottoms: Sequence[Tensor]) -> list[list[float]]:
        """Rows of one image by falling score."""
        boxes, labels, scores = [], [], []
        for position, maps in enumerate(bottoms):
            places, chance, classes = self.decode(position, maps[image])
            box, label, score = self.candidates(chance, classes)
            boxes.append(places[box])
            labels.append(label)
            scores.append(score)
        corners = torch.cat(boxes).cpu().numpy()
        chances = torch.cat(scores).cpu().numpy()
        names = torch.cat(labels).cpu().numpy() + 1
        kept = suppress_all(corners, chances, float(self.p.nms_threshold))
        return [[image, names[i], chances[i], *corners[i].tolist()] for i in kept.tolist()]

    def decode(self, position: int, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Corners (K, 4), chances (K,) and class values (K, C) by row, column and anchor."""
        height, width = maps.shape[1:]
        cells = maps.reshape(self.number, -1, height, width).permute(2, 3, 0, 1)
        y, x = torch.meshgrid(
            torch.arange(height).to(maps), torch.arange(width).to(maps), indexing="ij"
        )
        corner = torch.stack([x, y], -1)[:, :, None]
        grid = maps.new_tensor([width, height])
        centre = (cells[..., :2].sigmoid() + corner) / grid
        sides = torch.from_numpy(self.anchors(position, height, width)).to(maps)
        half = cells[..., 2:4].exp() * sides / 2
        boxes = torch.cat([centre - half, centre + half], -1).reshape(-1, 4)
        values = cells[..., 5:].reshape(-1, self.classes)
        return boxes, cells[..., 4].sigmoid().reshape(-1), values

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Not offered."""
        self.refuse("has no ONNX form here; export the net up to its bottoms and decode them.")


@register("YoloDetectionOutput")
class YoloDetectionOutput(YoloOutput):
    """Detections of YOLO version 2: the best class of each box, then suppression.

    For cell (x, y) of a W x H map and anchor (w, h): centre ``(x + sigmoid(t0)) / W`` (rows alike),
    width ``exp(t2) w / W``, score ``sigmoid(t4)`` times the largest softmax of the class values. A
    box that overlaps a better one, of any class, by nms_threshold or more is dropped.

    Bottoms:
        maps: one or two, (N, num_box (5 + num_classes), H, W).
    Tops:
        detections: (1, 1, D, 7) rows of image, class + 1, score, xmin, ymin, xmax, ymax as shares
        of the image, by image and falling score; without any, one row of -1 for each image after
        its number. The declared D is N.
    Parameters:
        num_classes (20), num_box (5), confidence_threshold (0.01): the least score; nms_threshold
        (0.45); biases: width and height of each anchor, in cells; coords (4).
    Gradient:
        none.
    ONNX:
        refused.
    Caffe source:
        yolo_detection_output_layer.cpp of eric612/MobileNet-YOLO
    Differences:
        several images are kept apart (there all are one image, number 0), and maps need not be
        square; detections of equal score stay in the order of bottom, cell and anchor.
    """

    param_field = "yolo_detection_output_param"
    bottoms = between(1, 2)
    no_gradient_bottoms = (0, 1)

    def configure(self) -> None:
        """Read and check the parameters."""
        super().configure()
        if self.p.coords != 4 or len(self.sizes) < self.number:
            self.fail(
                f"coords {self.p.coords} must be 4, and biases must hold {self.number} pairs of "
                f"width and height, found {len(self.sizes)}."
            )

    def anchors(self, position: int, height: int, width: int) -> np.ndarray:
        """Cells over the map's cells; the same anchors for both maps."""
        return self.sizes[: self.number] / np.array([width, height])

    def candidates(self, chance: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """At most one class for each box."""
        best, label = classes.softmax(1).max(1)
        score = chance * best
        (box,) = torch.nonzero(score >= float(self.p.confidence_threshold), as_tuple=True)
        return box, label[box], score[box]


@register("Yolov3DetectionOutput")
class Yolov3DetectionOutput(YoloOutput):
    """Detections of YOLO version 3: every class of each box on its own, then suppression.

    For cell (x, y) of a W x H map and anchor (w, h): centre ``(x + sigmoid(t0)) / W`` (rows alike),
    width ``exp(t2) w / (W anchors_scale)``, score ``sigmoid(t4) sigmoid(class value)``. A candidate
    that overlaps a better one, of any class, by nms_threshold or more is dropped.

    Bottoms:
        maps: mask_group_num of them, (N, num_box (5 + num_classes), H, W).
    Tops:
        detections: (1, 1, D, 7) rows of image, class + 1, score, xmin, ymin, xmax, ymax as shares
        of the image, by image and falling score; without any, one row of -1 for each image after
        its number. The declared D is N.
    Parameters:
        num_classes (20), num_box (3), confidence_threshold (0.01): scores above it; nms_threshold
        (0.45); biases: width and height of each anchor, in pixels; mask_group_num (2); mask: the
        anchors of each bottom; anchors_scale: pixels of a cell of each bottom.
    Gradient:
        none.
    ONNX:
        refused.
    Caffe source:
        yolov3_detection_output_layer.cpp of eric612/MobileNet-YOLO
    Differences:
        several images are kept apart (there all are one image, number 0), and maps need not be
        square; detections of equal score stay in the order of bottom, cell, anchor and class;
        gaussian_box is refused.
    """

    param_field = "yolov3_detection_output_param"
    bottoms = at_least(1)

    def configure(self) -> None:
        """Read and check the parameters."""
        super().configure()
        groups, mask = int(self.p.mask_group_num), [int(index) for index in self.p.mask]
        if self.p.gaussian_box:
            self.fail("gaussian_box is not supported; the boxes' variances would be left out.")
        if len(self.spec.bottoms) != groups or len(self.p.anchors_scale) < groups:
            self.fail(
                f"mask_group_num {groups} must be the number of bottoms, {len(self.spec.bottoms)}, "
                f"each with an anchors_scale, found {len(self.p.anchors_scale)}."
            )
        step = len(mask) // groups
        if step < self.number or max(mask) >= len(self.sizes):
            self.fail(
                f"mask {mask} must name {self.number} anchors for each of {groups} bottoms, out of "
                f"the {len(self.sizes)} in biases."
            )
        self.masks = [mask[i * step : i * step + self.number] for i in range(groups)]

    def anchors(self, position: int, height: int, width: int) -> np.ndarray:
        """Pixels over the map's pixels."""
        scale = int(self.p.anchors_scale[position])
        return self.sizes[self.masks[position]] / np.array([width * scale, height * scale])

    def candidates(self, chance: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Any number of classes for each box."""
        score = classes.sigmoid() * chance[:, None]
        box, label = torch.nonzero(score > float(self.p.confidence_threshold), as_tuple=True)
        return box, label, score[box, label]
