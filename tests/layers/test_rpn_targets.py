import numpy as np
import pytest
import torch

from caffe_bridge.errors import ExportError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.layers.proposal import base_anchors
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import net_text
from tests.layers.losses import normal

TRUTH = np.array([[4, 6, 40, 30, 2], [50, 40, 75, 95, 1]], np.float32)
INFO = np.array([[100, 90, 1]], np.float32)
SCALES = (1.0, 2.0)
COUNT = 3 * len(SCALES)


def python(module: str, name: str, settings: str) -> str:
    return (
        f'type: "Python" python_param {{ module: "rpn.{module}" layer: "{name}" '
        f'param_str: "{settings}" }}'
    )


def anchors(settings: str = "{'feat_stride': 8, 'scales': [1, 2]}") -> str:
    return python("anchor_target_layer", "AnchorTargetLayer", settings)


def proposals(settings: str = "'num_classes': 3") -> str:
    return python("proposal_target_layer", "ProposalTargetLayer", settings)


def make(layer: str, bottoms: list[np.ndarray], tops: int) -> Net:
    return Net(parse_net(net_text(layer, [b.shape for b in bottoms], tops), "TRAIN"))


def run(net: Net, bottoms: list[np.ndarray]) -> list[np.ndarray]:
    torch.manual_seed(0)
    out = net({f"in{i}": torch.from_numpy(b) for i, b in enumerate(bottoms)})
    return [out[f"out{i}"].numpy() for i in range(len(out))]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + 1, 0)
    areas = [np.prod(c[2:] - c[:2] + 1) for c in (a, b)]
    return float(np.prod(sides) / (sum(areas) - np.prod(sides)))


def shifts(box: np.ndarray, goal: np.ndarray) -> np.ndarray:
    size, wanted = box[2:] - box[:2] + 1, goal[2:] - goal[:2] + 1
    centres = [c[:2] + s / 2 for c, s in ((box, size), (goal, wanted))]
    return np.concatenate([(centres[1] - centres[0]) / size, np.log(wanted / size)])


def anchor_bottoms(height: int, width: int) -> list[np.ndarray]:
    return [normal(1, 2 * COUNT, height, width), TRUTH, INFO, normal(1, 3, 8, 8)]


def test_anchors() -> None:
    bottoms = anchor_bottoms(4, 5)
    labels, targets, inside, outside = run(make(anchors(), bottoms, 4), bottoms)
    assert labels.shape == (1, 1, COUNT * 4, 5) and targets.shape == (1, 4 * COUNT, 4, 5)
    base = base_anchors(16, (0.5, 1, 2), SCALES)
    found = {}
    for y, x, a in np.ndindex(4, 5, COUNT):
        box = base[a] + 8 * np.array([x, y, x, y])
        if box.min() >= 0 and box[2] < 90 and box[3] < 100:
            found[y, x, a] = box, [iou(box, t) for t in TRUTH[:, :4]]
    best = np.max([shares for _, shares in found.values()], 0)
    want = {}
    for key, (_, shares) in found.items():
        object_ = max(shares) >= 0.7 or any(np.isclose(shares, best, rtol=1e-6))
        want[key] = 1 if object_ else 0 if max(shares) < 0.3 else -1
    share = sum(label >= 0 for label in want.values())
    for y, x, a in np.ndindex(4, 5, COUNT):
        label = want.get((y, x, a), -1)
        part = slice(4 * a, 4 * a + 4)
        assert labels.reshape(COUNT, 4, 5)[a, y, x] == label
        goal = np.zeros(4)
        if (y, x, a) in found:
            box, shares = found[y, x, a]
            goal = shifts(box, TRUTH[int(np.argmax(shares)), :4])
        np.testing.assert_allclose(targets[0, part, y, x], goal, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(inside[0, part, y, x], [label == 1] * 4)
        np.testing.assert_allclose(outside[0, part, y, x], [(label >= 0) / share] * 4, rtol=1e-6)
    assert {-1, 0, 1} <= set(want.values())


def test_at_most_256_anchors() -> None:
    bottoms = anchor_bottoms(12, 11)
    net = make(anchors(), bottoms, 4)
    labels = run(net, bottoms)[0]
    assert (labels >= 0).sum() == 256 and 0 < (labels == 1).sum() <= 128
    np.testing.assert_array_equal(labels, run(net, bottoms)[0])


def rois(count: int, seed: int = 3) -> np.ndarray:
    low = np.random.default_rng(seed).uniform(0, 60, (count, 2))
    return np.concatenate([np.zeros((count, 1)), low, low + 30], 1).astype(np.float32)


def test_proposals() -> None:
    bottoms = [rois(20), TRUTH]
    chosen, labels, targets, inside, outside = run(make(proposals(), bottoms, 5), bottoms)
    assert len(chosen) == 22 and targets.shape == (22, 12)
    np.testing.assert_array_equal(inside, outside)
    assert (
        sorted(labels[labels > 0].tolist())[-1] == 2
        and (np.diff((labels > 0).astype(int)) <= 0).all()
    )
    for roi, label, target, weight in zip(chosen, labels, targets, inside, strict=True):
        shares = [iou(roi[1:], t) for t in TRUTH[:, :4]]
        match = int(np.argmax(shares))
        assert label == (TRUTH[match, 4] if max(shares) >= 0.5 else 0)
        want, marks = np.zeros((3, 4)), np.zeros((3, 4))
        if label:
            want[int(label)] = shifts(roi[1:], TRUTH[match, :4]) / [0.1, 0.1, 0.2, 0.2]
            marks[int(label)] = 1
        np.testing.assert_allclose(target, want.reshape(-1), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(weight, marks.reshape(-1))


def test_at_most_128_proposals() -> None:
    near = np.repeat(np.array([[0, 4, 6, 40, 30]], np.float32), 50, 0)
    bottoms = [np.concatenate([near, rois(300)]), TRUTH]
    net = make(proposals(), bottoms, 5)
    labels = run(net, bottoms)[1]
    assert len(labels) == 128 and (labels > 0).sum() == 32
    declared = net.shapes_for({f"in{i}": b.shape for i, b in enumerate(bottoms)})
    assert declared["out2"] == (128, 12) and declared["out1"] == (128,)


@pytest.mark.parametrize(
    ("layer", "bottoms", "tops", "message"),
    [
        (anchors("'scales': [8]"), anchor_bottoms(2, 2), 4, "must give feat_stride"),
        (anchors("'feat_stride': 0"), anchor_bottoms(2, 2), 4, "positive feat_stride"),
        (anchors("'feat_stride': 8"), anchor_bottoms(2, 2), 4, "for 9 anchors a cell"),
        (proposals("'num_classes': 1"), [rois(2), TRUTH], 5, "must be at least 2"),
        (proposals("'num_classes': 2, 'x': 1"), [rois(2), TRUTH], 5, "nothing but num_classes"),
        (proposals(), [rois(2)[:, 1:], TRUTH], 5, r"rois \(bottom 0\) has shape"),
        (proposals(), [rois(2), TRUTH[:, 1:]], 5, r"gt_boxes \(bottom 1\) has shape"),
    ],
)
def test_errors(layer: str, bottoms: list[np.ndarray], tops: int, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        make(layer, bottoms, tops)


def test_onnx_is_refused() -> None:
    with pytest.raises(ExportError, match="by chance"):
        export(make(proposals(), [rois(2), TRUTH], 5))
