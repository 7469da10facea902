from collections.abc import Sequence

import numpy as np
import pytest
import torch

from caffe_bridge.errors import ExportError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import net_text
from tests.layers.losses import normal, softmax
from tests.layers.test_box import iou

CLASSES = 2
PAIRS = [(1.5, 2.0), (3.0, 1.0), (2.0, 2.5), (4.0, 3.0)]
SIZES = " ".join(f"biases: {w} biases: {h}" for w, h in PAIRS)
V2 = f"num_classes: {CLASSES} num_box: 2 {SIZES}"
V3 = (
    f"num_classes: {CLASSES} num_box: 2 {SIZES} mask: 2 mask: 3 mask: 0 mask: 1 "
    "anchors_scale: 2 anchors_scale: 1"
)


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def maps(number: int = 1, count: int = 2) -> list[np.ndarray]:
    sides = [(2, 3), (4, 6)]
    return [normal(number, 2 * (5 + CLASSES), *sides[i], seed=i) for i in range(count)]


def candidates(
    bottom: np.ndarray, image: int, anchors: Sequence[tuple[float, float]], best: bool
) -> list[tuple[float, int, np.ndarray]]:
    """Score, class and corners; anchors are shares of the image."""
    height, width = bottom.shape[2:]
    found = []
    for y, x, n in np.ndindex(height, width, 2):
        t = bottom[image, n * (5 + CLASSES) : (n + 1) * (5 + CLASSES), y, x].astype(float)
        cx, cy = (x + sigmoid(t[0])) / width, (y + sigmoid(t[1])) / height
        w, h = np.exp(t[2]) * anchors[n][0], np.exp(t[3]) * anchors[n][1]
        box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        if best:
            chances = softmax(t[None, 5:])[0]
            found.append((sigmoid(t[4]) * chances.max(), int(chances.argmax()), box))
        else:
            found += [(sigmoid(t[4]) * sigmoid(t[5 + c]), c, box) for c in range(CLASSES)]
    return found


def rows(
    found: list[tuple[float, int, np.ndarray]], image: int, least: float, nms: float
) -> list[list[float]]:
    kept: list[tuple[float, int, np.ndarray]] = []
    for one in sorted(found, key=lambda item: -item[0]):
        if one[0] >= least and all(iou(one[2], other[2]) < nms for other in kept):
            kept.append(one)
    return [[image, label + 1, score, *box] for score, label, box in kept]


def make(kind: str, text: str, bottoms: Sequence[np.ndarray]) -> Net:
    field = {"YoloDetectionOutput": "yolo", "Yolov3DetectionOutput": "yolov3"}[kind]
    layer = f'type: "{kind}" {field}_detection_output_param {{ {text} }}'
    return Net(parse_net(net_text(layer, [b.shape for b in bottoms], 1), "TEST"))


def run(model: Net, bottoms: Sequence[np.ndarray]) -> np.ndarray:
    return model({f"in{i}": torch.from_numpy(b) for i, b in enumerate(bottoms)})["out0"].numpy()


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("least", "nms"), [(0.01, 0.45), (0.3, 0.2)])
def test_version_2(number: int, count: int, least: float, nms: float) -> None:
    bottoms = maps(number, count)
    text = f"{V2} confidence_threshold: {least} nms_threshold: {nms}"
    want = []
    for image in range(number):
        found = []
        for bottom in bottoms:
            height, width = bottom.shape[2:]
            anchors = [(w / width, h / height) for w, h in PAIRS[:2]]
            found += candidates(bottom, image, anchors, best=True)
        want += rows(found, image, least, nms)
    got = run(make("YoloDetectionOutput", text, bottoms), bottoms)
    np.testing.assert_allclose(got, np.array([[want]]), rtol=1e-4, atol=1e-5)
    assert len(want) > number


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(("least", "nms"), [(0.01, 0.45), (0.3, 0.2)])
def test_version_3(number: int, least: float, nms: float) -> None:
    bottoms = maps(number)
    text = f"{V3} confidence_threshold: {least} nms_threshold: {nms}"
    want = []
    for image in range(number):
        found = []
        for bottom, pairs, scale in zip(bottoms, (PAIRS[2:], PAIRS[:2]), (2, 1), strict=True):
            height, width = bottom.shape[2:]
            anchors = [(w / width / scale, h / height / scale) for w, h in pairs]
            found += candidates(bottom, image, anchors, best=False)
        want += rows(found, image, least, nms)
    got = run(make("Yolov3DetectionOutput", text, bottoms), bottoms)
    np.testing.assert_allclose(got, np.array([[want]]), rtol=1e-4, atol=1e-5)
    assert len(want) > number


@pytest.mark.parametrize(("kind", "text"), [
    ("YoloDetectionOutput", V2), ("Yolov3DetectionOutput", V3),
])  # fmt: skip
def test_nothing_found_and_no_onnx(kind: str, text: str) -> None:
    bottoms = maps(2)
    model = make(kind, f"{text} confidence_threshold: 2", bottoms)
    got = run(model, bottoms)
    np.testing.assert_array_equal(got[0, 0], [[0, *[-1] * 6], [1, *[-1] * 6]])
    declared = model.shapes_for({f"in{i}": b.shape for i, b in enumerate(bottoms)})
    assert declared["out0"] == (1, 1, 2, 7)
    with pytest.raises(ExportError, match="export the net up to its bottoms"):
        export(model)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("YoloDetectionOutput", "num_classes: 0", "num_classes 0 and num_box 5"),
        ("YoloDetectionOutput", "biases: 1", "biases has 1 values"),
        ("YoloDetectionOutput", f"{V2} coords: 5", "coords 5 must be 4"),
        ("YoloDetectionOutput", "num_classes: 2 num_box: 5 " + SIZES, "hold 5 pairs"),
        ("YoloDetectionOutput", f"{V2}".replace("classes: 2", "classes: 3"), "must have the 16 ch"),
        ("Yolov3DetectionOutput", f"{V3} gaussian_box: true", "gaussian_box is not supported"),
        ("Yolov3DetectionOutput", f"{V3} mask_group_num: 3", "must be the number of bottoms, 2"),
        ("Yolov3DetectionOutput", V3.replace("mask: 3", "mask: 4"), "out of the 4 in biases"),
    ],
)
def test_errors(kind: str, text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        make(kind, text, maps())
