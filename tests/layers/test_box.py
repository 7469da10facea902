import numpy as np

from caffe_bridge.layers.box import overlap, suppress


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [max(0, c[2] - c[0]) * max(0, c[3] - c[1]) for c in (a, b)]
    return float(width * height / (sum(areas) - width * height))


def test_overlap() -> None:
    box = np.array([0.0, 0.0, 2.0, 2.0])
    others = np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [2, 0, 3, 1], [5, 5, 4, 4]])
    np.testing.assert_allclose(overlap(box, others), [1 / 7, 1, 0, 0])
    np.testing.assert_allclose(overlap(box, others), [iou(box, other) for other in others])


def test_equal_scores_keep_their_order_and_equal_overlap_stays() -> None:
    boxes = np.array([[0.0, 0, 2, 1], [1, 0, 3, 1], [0, 0, 2, 1]])
    scores = np.array([0.5, 0.5, 0.5])
    assert suppress(boxes, scores, 0.0, 1 / 3).tolist() == [0, 1]
    assert suppress(boxes, scores, 0.0, 0.3).tolist() == [0]
    assert suppress(boxes, scores, 0.5, 0.3).tolist() == []


def test_top_k_counts_before_suppression() -> None:
    boxes = np.array([[0.0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]])
    scores = np.array([0.9, 0.8, 0.7])
    assert suppress(boxes, scores, 0.0, 0.5, top_k=2).tolist() == [0]
    assert suppress(boxes, scores, 0.0, 0.5).tolist() == [0, 2]


def test_eta() -> None:
    boxes = np.array([[0.0, 0, 1, 1], [0, 0, 1, 0.8], [0, 0, 1, 0.65]])
    scores = np.array([0.9, 0.8, 0.7])
    assert suppress(boxes, scores, 0.0, 0.85).tolist() == [0, 1, 2]
    assert suppress(boxes, scores, 0.0, 0.85, eta=0.95).tolist() == [0, 1]
