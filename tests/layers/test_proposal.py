import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.layers.proposal import base_anchors
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import net_text
from tests.layers.losses import check_onnx, normal

RATIOS, SCALES = (0.5, 2.0), (1.0, 2.0, 3.0)
COUNT = len(RATIOS) * len(SCALES)
TEXT = "feat_stride: 8 ratio: 0.5 ratio: 2 scale: 1 scale: 2 scale: 3"


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return float(shared / (sum(areas) - shared))


def propose(
    scores: np.ndarray,
    deltas: np.ndarray,
    info: np.ndarray,
    before: int = 6000,
    after: int = 300,
    threshold: float = 0.7,
    least: float = 16,
) -> tuple[list[list[float]], list[float]]:
    base = base_anchors(16, RATIOS, SCALES)
    rows, values = [], []
    for n in range(scores.shape[0]):
        found = []
        for y, x, a in np.ndindex(*scores.shape[2:], COUNT):
            dx, dy, dw, dh = deltas[n, 4 * a : 4 * a + 4, y, x].astype(float)
            x1, y1, x2, y2 = base[a] + 8 * np.array([x, y, x, y])
            width, height = x2 - x1 + 1, y2 - y1 + 1
            cx, cy = dx * width + x1 + width / 2, dy * height + y1 + height / 2
            box = np.array([
                cx - np.exp(dw) * width / 2, cy - np.exp(dh) * height / 2,
                cx + np.exp(dw) * width / 2, cy + np.exp(dh) * height / 2,
            ])  # fmt: skip
            box = box.clip(0, np.array([info[n, 1], info[n, 0]] * 2) - 1)
            small = least * np.array([info[n, 2], info[n, -1]])
            if (box[2:] - box[:2] + 1 >= small).all():
                found.append((float(scores[n, COUNT + a, y, x]), box))
        found.sort(key=lambda pair: -pair[0])
        kept: list[tuple[float, np.ndarray]] = []
        for score, box in found[: before or None]:
            if all(overlap(box, other) <= threshold for _, other in kept):
                kept.append((score, box))
        for score, box in kept[: after or None]:
            rows.append([n, *box])
            values.append(score)
    return rows, values


def make(text: str, number: int = 1, columns: int = 3, tops: int = 2) -> tuple[Net, list]:
    info = np.array([[40, 52, 0.75, 0.5], [33, 48, 1.0, 0.8]], np.float32)[:number, :columns]
    bottoms = [normal(number, 2 * COUNT, 5, 6), normal(number, 4 * COUNT, 5, 6, seed=1) / 3, info]
    layer = f'type: "Proposal" proposal_param {{ {TEXT} {text} }}'
    net = Net(parse_net(net_text(layer, [b.shape for b in bottoms], tops), "TEST"))
    return net, bottoms


def run(net: Net, bottoms: list) -> list[np.ndarray]:
    out = net({f"in{i}": torch.from_numpy(b) for i, b in enumerate(bottoms)})
    return [value.numpy() for value in out.values()]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        ("nms_thresh: 0.3 min_size: 20", {"threshold": 0.3, "least": 20}),
        ("pre_nms_topn: 30 post_nms_topn: 7", {"before": 30, "after": 7}),
        ("pre_nms_topn: 0 post_nms_topn: 0", {"before": 0, "after": 0}),
        ("min_size: 900", {"least": 900}),
    ],
)
@pytest.mark.parametrize(("number", "columns"), [(1, 3), (2, 3), (2, 4)])
def test_regions(text: str, options: dict[str, float], number: int, columns: int) -> None:
    net, bottoms = make(text, number, columns)
    rows, values = propose(*bottoms, **options)
    rois, scores = run(net, bottoms)
    assert rois.shape == (len(rows), 5)
    np.testing.assert_allclose(rois, np.reshape(rows, (-1, 5)), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(scores, np.reshape(values, (-1, 1)), rtol=1e-6)
    check_onnx(net, bottoms)


def test_regions_alone() -> None:
    net, bottoms = make("", tops=1)
    assert len(run(net, bottoms)) == 1
    check_onnx(net, bottoms)
    dims = export(net).graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["out0_size", 5]


def test_anchors_of_faster_rcnn() -> None:
    assert base_anchors(16, (0.5, 1, 2), (8, 16, 32)).tolist() == [
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-360, -184, 375, 199],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-248, -248, 263, 263],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
        [-168, -344, 183, 359],
    ]


def test_usual_anchors() -> None:
    shapes = [(1, 18, 2, 2), (1, 36, 2, 2), (1, 3)]
    net = Net(parse_net(net_text('type: "Proposal"', shapes, 1), "TEST"))
    assert net.layer("l").base.shape == (9, 4)


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("feat_stride: 0", [(1, 18, 2, 2), (1, 36, 2, 2), (1, 3)], "feat_stride 0 and base_size"),
        ("ratio: 1", [(1, 18, 2, 2), (1, 36, 2, 2), (1, 3)], r"3 anchors a cell give scores"),
        ("", [(1, 18, 2, 2), (1, 36, 2, 2), (1, 5)], r"image sizes \(N, 3\)"),
    ],
)
def test_errors(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(parse_net(net_text(f'type: "Proposal" proposal_param {{ {text} }}', shapes, 1), "TEST"))


def test_regions_feed_further_layers() -> None:
    text = f"""
    layer {{ name: "a" type: "Input" top: "in0" input_param {{ shape {{ dim: 1 dim: 12 dim: 5 dim: 6 }} }} }}
    layer {{ name: "b" type: "Input" top: "in1" input_param {{ shape {{ dim: 1 dim: 24 dim: 5 dim: 6 }} }} }}
    layer {{ name: "c" type: "Input" top: "in2" input_param {{ shape {{ dim: 1 dim: 3 }} }} }}
    layer {{ name: "p" type: "Proposal" bottom: "in0" bottom: "in1" bottom: "in2" top: "rois"
             proposal_param {{ {TEXT} }} }}
    layer {{ name: "r" type: "PSROIPooling" bottom: "in0" bottom: "rois" top: "bins"
             psroi_pooling_param {{ spatial_scale: 0.125 output_dim: 3 group_size: 2 }} }}
    layer {{ name: "m" type: "Pooling" bottom: "bins" top: "mean"
             pooling_param {{ pool: AVE kernel_size: 2 }} }}
    layer {{ name: "i" type: "InnerProduct" bottom: "bins" top: "ip"
             inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
    layer {{ name: "s" type: "Softmax" bottom: "ip" top: "prob" }}
    """  # noqa: E501
    net = Net(parse_net(text, "TEST"))
    _, bottoms = make("")
    out = net({f"in{i}": torch.from_numpy(b) for i, b in enumerate(bottoms)})
    assert out["prob"].shape[0] == out["mean"].shape[0] > 3
    check_onnx(net, bottoms)
