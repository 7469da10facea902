import numpy as np
import pytest

from caffe_bridge.errors import ExportError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import net_text
from tests.layers.losses import check_onnx, normal
from tests.layers.test_box import iou

BOXES, CLASSES = 12, 3


def priors(seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.6, (BOXES, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.2, 0.4, (BOXES, 2))], 1)
    variances = np.tile([0.1, 0.1, 0.2, 0.2], (BOXES, 1))
    return np.stack([boxes.reshape(-1), variances.reshape(-1)])[None].astype(np.float32)


def decoded(loc: np.ndarray, prior: np.ndarray, variance: np.ndarray, code: str) -> np.ndarray:
    loc = loc * variance
    size = prior[2:] - prior[:2]
    if code == "CORNER":
        return prior + loc
    if code == "CORNER_SIZE":
        return prior + loc * np.tile(size, 2)
    centre = (prior[:2] + prior[2:]) / 2 + loc[:2] * size
    half = np.exp(loc[2:]) * size / 2
    return np.concatenate([centre - half, centre + half])


def expected(
    loc: np.ndarray,
    conf: np.ndarray,
    prior: np.ndarray,
    code: str = "CORNER",
    shared: bool = True,
    encoded: bool = False,
    least: float = -np.inf,
    nms: float = 0.3,
    top_k: int | None = None,
    keep: int = -1,
    background: int = 0,
) -> np.ndarray:
    number = loc.shape[0]
    loc = loc.reshape(number, BOXES, -1, 4).astype(float)
    conf = conf.reshape(number, BOXES, CLASSES)
    box, variance = prior.reshape(2, BOXES, 4).astype(float)
    rows = []
    for n in range(number):
        mine = []
        for c in range(CLASSES):
            if c == background:
                continue
            order = [p for p in np.argsort(-conf[n, :, c]) if conf[n, p, c] > least][:top_k]
            kept: list[np.ndarray] = []
            for p in order:
                factor = np.ones(4) if encoded else variance[p]
                place = decoded(loc[n, p, 0 if shared else c], box[p], factor, code)
                if all(iou(place, other) <= nms for other in kept):
                    kept.append(place)
                    mine.append([n, c, conf[n, p, c], *place])
        if keep > -1:
            limit = sorted((row[2] for row in mine), reverse=True)[:keep]
            mine = [row for row in mine if row[2] in limit]
        rows += mine
    rows = rows or [[n, *[-1] * 6] for n in range(number)]
    rows += [[0] * 7] * (number * keep - len(rows))
    return np.array(rows)[None, None]


def make(text: str, shared: bool = True, number: int = 3) -> tuple[Net, list[np.ndarray]]:
    loc = normal(number, BOXES * 4 * (1 if shared else CLASSES))
    bottoms = [loc, normal(number, BOXES * CLASSES, seed=1), priors()]
    layer = (
        f'type: "DetectionOutput" detection_output_param {{ num_classes: {CLASSES} '
        f"share_location: {str(shared).lower()} {text} }}"
    )
    return Net(parse_net(net_text(layer, [b.shape for b in bottoms], 1), "TEST")), bottoms


def run(net: Net, bottoms: list[np.ndarray]) -> np.ndarray:
    import torch

    feed = {f"in{i}": torch.from_numpy(b) for i, b in enumerate(bottoms)}
    return net(feed)["out0"].numpy()


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        ("code_type: CENTER_SIZE", {"code": "CENTER_SIZE"}),
        ("code_type: CORNER_SIZE", {"code": "CORNER_SIZE"}),
        (
            "code_type: CENTER_SIZE variance_encoded_in_target: true",
            {"code": "CENTER_SIZE", "encoded": True},
        ),
        ("confidence_threshold: 0.5", {"least": 0.5}),
        ("nms_param { nms_threshold: 0.6 top_k: 5 }", {"nms": 0.6, "top_k": 5}),
        ("keep_top_k: 4", {"keep": 4}),
        ("background_label_id: -1 keep_top_k: 6", {"background": -1, "keep": 6}),
        ("confidence_threshold: 9", {"least": 9}),
        ("confidence_threshold: 9 keep_top_k: 4", {"least": 9, "keep": 4}),
        ("confidence_threshold: 9 keep_top_k: 1", {"least": 9, "keep": 1}),
        ("keep_top_k: 0", {"keep": 0}),
        ("keep_top_k: 200", {"keep": 200}),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_detections(text: str, options: dict[str, object], shared: bool) -> None:
    net, bottoms = make(text, shared)
    want = expected(*bottoms, shared=shared, **options)
    got = run(net, bottoms)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    check_onnx(net, bottoms)


def test_eta_lowers_the_threshold_and_has_no_onnx() -> None:
    net, bottoms = make("nms_param { nms_threshold: 0.9 eta: 0.5 }")
    full, _ = make("nms_param { nms_threshold: 0.9 }")
    assert run(net, bottoms).shape[2] < run(full, bottoms).shape[2]
    with pytest.raises(ExportError, match=r"lowers the NMS threshold by eta 0\.5"):
        export(net)


def test_keep_top_k_states_the_number_of_rows() -> None:
    net, bottoms = make("keep_top_k: 30")
    shapes = {f"in{i}": b.shape for i, b in enumerate(bottoms)}
    assert net.shapes_for(shapes)["out0"] == (1, 1, 90, 7) == run(net, bottoms).shape
    assert run(net, [bottoms[0][:1], bottoms[1][:1], bottoms[2]]).shape == (1, 1, 30, 7)
    assert make("")[0].shapes_for(shapes)["out0"] == (1, 1, 1, 7)


def test_number_of_rows_is_open_in_onnx() -> None:
    net, _ = make("")
    dims = export(net).graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == [1, 1, "out0_size", 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_classes: 0", "num_classes is missing or zero"),
        ("num_classes: 4", r"give locations \(N, 48\) and scores \(N, 48\)"),
        ("num_classes: 3 nms_param { eta: 2 }", "eta 2.0 must be above 0 and at most 1"),
    ],
)
def test_errors(text: str, message: str) -> None:
    shapes = [(2, 48), (2, 36), (1, 2, 48)]
    layer = f'type: "DetectionOutput" detection_output_param {{ {text} }}'
    with pytest.raises(ShapeError, match=message):
        Net(parse_net(net_text(layer, shapes, 1), "TEST"))
