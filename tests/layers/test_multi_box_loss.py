import math

import numpy as np
import pytest
import torch

from caffe_bridge.errors import DataError, ExportError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import check_layer, net_text
from tests.layers.losses import check_loss, gradients, normal, softmax
from tests.layers.test_box import iou

CLASSES = 3
PRIORS = np.array(
    [[0, 0, 0.4, 0.4], [0.05, 0, 0.5, 0.5], [0.5, 0.5, 0.9, 0.95], [0.4, 0.6, 0.9, 1],
     [0, 0.5, 0.3, 0.9], [-0.1, 0.1, 0.3, 0.5]],
)  # fmt: skip
VARIANCES = np.tile([0.1, 0.1, 0.2, 0.2], (len(PRIORS), 1))
TRUTH = np.array(
    [[0, 1, 0, 0, 0, 0.45, 0.4, 0], [0, 2, 0, 0.5, 0.5, 0.95, 0.9, 0], [2, 2, 0, 0, 0.5, 0.4, 1, 1],
     [-1, 0, 0, 0, 0, 0, 0, 0]],
)  # fmt: skip
BOXES = len(PRIORS)


def bottoms(places: int = 1) -> list[np.ndarray]:
    prior = np.stack([PRIORS.reshape(-1), VARIANCES.reshape(-1)])[None]
    loc = normal(3, BOXES * 4 * places) * 2
    return [loc, normal(3, BOXES * CLASSES, seed=1), prior, TRUTH[None, None]]


def target(box: np.ndarray, prior: np.ndarray, variance: np.ndarray, code: str) -> np.ndarray:
    size = prior[2:] - prior[:2]
    if code == "CORNER":
        return (box - prior) / variance
    if code == "CORNER_SIZE":
        return (box - prior) / np.tile(size, 2) / variance
    shift = (box[:2] + box[2:] - prior[:2] - prior[2:]) / 2 / size
    return np.concatenate([shift, np.log((box[2:] - box[:2]) / size)]) / variance


def matches(boxes: list[np.ndarray], per_prediction: bool = True) -> dict[int, int]:
    table = {(p, g): iou(PRIORS[p], b) for g, b in enumerate(boxes) for p in range(BOXES)}
    found: dict[int, int] = {}
    for (p, g), value in sorted(table.items(), key=lambda item: -item[1]):
        if value > 0 and p not in found and g not in found.values():
            found[p] = g
    if per_prediction:
        for p in range(BOXES):
            best = max(range(len(boxes)), key=lambda g: table[p, g])
            if p not in found and table[p, best] >= 0.5:
                found[p] = best
    return found


def expected(
    loc: np.ndarray, conf: np.ndarray, *_: np.ndarray, code: str = "CORNER", ratio: float = 3,
    mine: bool = True, smooth: bool = True, logistic: bool = False, weight: float = 1,
    divisor: float | None = None, difficult: bool = True, inner: bool = False,
    per_prediction: bool = True,
) -> float:  # fmt: skip
    loc, conf = loc.reshape(3, BOXES, 4), conf.reshape(3, BOXES, CLASSES)
    total, count = 0.0, 0

    def cost(row: np.ndarray, label: int | None) -> float:
        if not logistic:
            return -math.log(softmax(row[None])[0, label or 0])
        hits = np.arange(CLASSES) == (-1 if label is None else label)
        return float(sum(np.log1p(np.exp(row)) - row * hits))

    for n in range(3):
        own = [t for t in TRUTH if t[0] == n and (difficult or not t[7])]
        found = matches([t[3:7] for t in own], per_prediction) if own else {}
        count += len(found)
        for p, g in found.items():
            gap = loc[n, p] / (VARIANCES[p] if inner else 1)
            gap = np.abs(gap - target(own[g][3:7], PRIORS[p], VARIANCES[p], code))
            values = np.where(smooth & (gap >= 1), gap - 0.5, gap**2 / 2)
            total += weight * values.sum() + cost(conf[n, p], int(own[g][1]))
        rest = [p for p in range(BOXES) if p not in found]
        if mine:
            rest = [p for p in rest if all(iou(PRIORS[p], t[3:7]) < 0.5 for t in own)]
            rest.sort(key=lambda p: -cost(conf[n, p], 0))
            rest = rest[: int(len(found) * ratio)]
        total += sum(cost(conf[n, p], 0 if mine else None) for p in rest)
    return total / (divisor or count)


def layer(text: str = "", loss: str = "") -> str:
    classes = "" if "num_classes" in text else f"num_classes: {CLASSES}"
    return (
        f'type: "MultiBoxLoss" multibox_loss_param {{ {classes} {text} }} loss_param {{ {loss} }}'
    )


@pytest.mark.parametrize(
    ("text", "loss", "options"),
    [
        ("", "", {}),
        ("code_type: CENTER_SIZE", "", {"code": "CENTER_SIZE"}),
        ("code_type: CORNER_SIZE loc_weight: 2", "", {"code": "CORNER_SIZE", "weight": 2}),
        ("code_type: CENTER_SIZE encode_variance_in_target: true", "",
         {"code": "CENTER_SIZE", "inner": True}),
        ("neg_pos_ratio: 0.5", "normalization: NONE", {"ratio": 0.5, "divisor": 1}),
        ("mining_type: NONE", "normalization: FULL", {"mine": False, "divisor": 3 * BOXES}),
        ("do_neg_mining: false", "normalize: false", {"mine": False, "divisor": 3}),
        ("loc_loss_type: L2", "", {"smooth": False}),
        ("conf_loss_type: LOGISTIC", "", {"logistic": True}),
        ("conf_loss_type: LOGISTIC mining_type: NONE", "", {"logistic": True, "mine": False}),
        ("use_difficult_gt: false", "", {"difficult": False}),
        ("match_type: BIPARTITE", "", {"per_prediction": False}),
    ],
)  # fmt: skip
def test_loss(text: str, loss: str, options: dict[str, object]) -> None:
    check_loss(
        layer(text, loss),
        bottoms(),
        lambda *given: np.array(expected(*given, **options)),
        onnx=False,
    )


@pytest.mark.parametrize(
    "text",
    [
        "mining_type: HARD_EXAMPLE sample_size: 3",
        "mining_type: HARD_EXAMPLE nms_param { nms_threshold: 0.4 top_k: 5 }",
        "nms_param { nms_threshold: 0.4 top_k: 5 } use_prior_for_nms: true",
        "use_prior_for_matching: false bp_inside: true overlap_threshold: 0.1",
        "ignore_cross_boundary_bbox: true bp_inside: true",
        "share_location: false mining_type: NONE",
        "share_location: false mining_type: NONE use_prior_for_matching: false",
    ],
)
def test_gradient(text: str) -> None:
    given = bottoms(CLASSES if "share" in text else 1)
    check_layer(layer(text), given, [()], phase="TRAIN", onnx=False)


def run(text: str, places: int = 1, given: list[np.ndarray] | None = None, end: str = "") -> float:
    arrays = [np.asarray(b, np.float32) for b in given or bottoms(places)]
    net = Net(parse_net(net_text(layer(text) + end, [b.shape for b in arrays], 1), "TEST"))
    return float(net({f"in{i}": torch.from_numpy(b) for i, b in enumerate(arrays)})["out0"])


def test_own_boxes_of_classes_equal_shared_ones() -> None:
    loc, *others = bottoms()
    each = np.repeat(loc.reshape(3, BOXES, 1, 4), CLASSES, 2).reshape(3, -1)
    own = run("share_location: false mining_type: NONE", given=[each, *others])
    assert own == pytest.approx(run("mining_type: NONE"), rel=1e-5)


def test_propagate_down_leaves_parts_out() -> None:
    ends = [
        " ".join(f"propagate_down: {value}" for value in (*parts, "false", "false"))
        for parts in (("true", "false"), ("false", "true"))
    ]
    halves = [run("", end=end) for end in ends]
    assert all(half > 0 for half in halves)
    assert sum(halves) == pytest.approx(run(""), rel=1e-5)


def test_all_boxes_far_from_the_truth_have_no_location_gradient() -> None:
    given = bottoms()
    given[3] = np.array([[[[0, 1, 0, 0.95, 0.0, 1, 0.05, 0]]]])
    net = check_loss(layer(), given, lambda *_: np.array(0.0), gradient=False, onnx=False)
    assert [float(np.abs(g).max()) for g in gradients(net, given, (0, 1))] == [0, 0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 0, 0, 0, 0, 0.5, 0.5, 0], "a true box has class 0; classes are 0 to 2"),
        ([0, 3, 0, 0, 0, 0.5, 0.5, 0], "a true box has class 3"),
    ],
)
def test_labels(row: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run("", given=[*bottoms()[:3], np.array([[[row]]])])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_classes: 0", "num_classes is missing or zero"),
        ("num_classes: 4", r"scores \(N, 24\)"),
        ("background_label_id: 3", "background_label_id 3 is not below 3"),
        ("ignore_difficult_gt: true", "ignore_difficult_gt is a fork's"),
        ("map_object_to_agnostic: true", "beside the background, not 2"),
        ("do_neg_mining: false mining_type: MAX_NEGATIVE", "do_neg_mining contradicts"),
        ("share_location: false", "mines only with share_location"),
        ("neg_pos_ratio: 0", "neg_pos_ratio 0 and sample_size 64 must be positive"),
        ("nms_param { nms_threshold: 0.5 }", "nms_param has no top_k"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        run(text)


def test_truth_has_rows_of_eight() -> None:
    with pytest.raises(ShapeError, match=r"must be \(1, 1, G, 8\)"):
        run("", given=[*bottoms()[:3], np.zeros((1, 1, 2, 5))])


def test_no_onnx() -> None:
    net = Net(parse_net(net_text(layer(), [b.shape for b in bottoms()], 1), "TEST"))
    with pytest.raises(ExportError, match="has no ONNX form"):
        export(net)
