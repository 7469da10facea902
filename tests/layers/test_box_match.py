import numpy as np

from caffe_bridge.layers.box_match import IGNORED, NOTHING, Mining, match, mine, read_truth

BOXES = np.array(
    [[0, 0, 0.4, 0.4], [0, 0, 0.5, 0.5], [0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 1.2, 1],
     [0, 0.9, 0.1, 1]],
    np.float32,
)  # fmt: skip
TRUTH = np.array([[0, 0, 0.5, 0.5], [0.1, 0.1, 0.45, 0.45], [0.6, 0.6, 1, 1]], np.float32)


def test_each_true_box_has_its_best() -> None:
    found, overlaps = match(BOXES, TRUTH, None, False)
    assert found.tolist() == [NOTHING, 0, 1, 2, NOTHING]
    np.testing.assert_allclose(overlaps, [0.64, 1, 0.1225 / 0.16, 0.16 / 0.24, 0], rtol=1e-5)


def test_further_boxes_over_the_threshold() -> None:
    assert match(BOXES, TRUTH, 0.6, False)[0].tolist() == [0, 0, 1, 2, NOTHING]
    assert match(BOXES, TRUTH, 0.7, False)[0].tolist() == [NOTHING, 0, 1, 2, NOTHING]


def test_boxes_over_the_border_are_ignored() -> None:
    found, overlaps = match(BOXES, TRUTH, 0.5, True)
    assert found[3] == IGNORED
    assert overlaps[3] == 0


def test_no_truth() -> None:
    assert match(BOXES, TRUTH[:0], 0.5, False)[0].tolist() == [NOTHING] * 5


def test_negatives_of_largest_loss() -> None:
    found = np.array([NOTHING, 0, NOTHING, IGNORED, NOTHING, NOTHING])
    overlaps = np.array([0.1, 0.9, 0.2, 0, 0.6, 0])
    losses = np.array([1.0, 9, 3, 8, 7, 2])
    boxes = np.tile(BOXES[0], (6, 1))
    after, negatives = mine(found, overlaps, losses, boxes, Mining(False, 2.0, 0.5, 64, 0, -1))
    assert after.tolist() == found.tolist()
    assert negatives.tolist() == [2, 5]
    _, negatives = mine(found, overlaps, losses, boxes, Mining(False, 2.0, 0.5, 64, 0.5, -1))
    assert negatives.tolist() == [2]


def test_hard_examples_replace_matches() -> None:
    found = np.array([0, NOTHING, 1, NOTHING])
    how = Mining(True, 3.0, 0.5, 2, 0, -1)
    after, negatives = mine(found, np.zeros(4), np.array([5.0, 4, 1, 0]), BOXES[:4], how)
    assert after.tolist() == [0, NOTHING, NOTHING, NOTHING]
    assert negatives.tolist() == [1]


def test_truth_by_image() -> None:
    rows = np.zeros((4, 8), np.float32)
    rows[:, 0], rows[:, 1], rows[:, 7] = [1, -1, 0, 1], [3, 0, 2, 4], [0, 0, 1, 0]
    rows[:, 5] = [0.1, 0.2, 0.3, 0.4]
    known = read_truth(rows, True)
    assert sorted(known) == [0, 1]
    assert known[1].labels.tolist() == [3, 4]
    np.testing.assert_array_equal(known[1].boxes[:, 2], rows[[0, 3], 5])
    assert sorted(read_truth(rows, False)) == [1]
