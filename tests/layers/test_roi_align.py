import math

import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.verify import verify
from tests.helpers import check_layer, layer_spec_of

SHAPE = (2, 3, 8, 9)
ROIS = np.array(
    [[0, 2, 3, 12, 9], [1, 0, 0, 17.5, 15], [1, 5.2, 4.9, 5.4, 5], [0, -6, -4, 30, 25]], np.float32
)


def sample(image: np.ndarray, y: float, x: float) -> np.ndarray:
    high, wide = image.shape[1:]
    if y < -1 or y > high or x < -1 or x > wide:
        return np.zeros(len(image))
    y, x = (min(max(v, 0.0), n - 1.0) for v, n in ((y, high), (x, wide)))
    top, left = int(y), int(x)
    low, right = min(top + 1, high - 1), min(left + 1, wide - 1)
    dy, dx = y - top, x - left
    first = (1 - dx) * image[:, top, left] + dx * image[:, top, right]
    return (1 - dy) * first + dy * ((1 - dx) * image[:, low, left] + dx * image[:, low, right])


def align(x: np.ndarray, rois: np.ndarray, scale: float, bins: tuple[int, int], ratio: int):
    rois = rois.reshape(-1, 5)
    y = np.zeros((len(rois), x.shape[1], *bins))
    for r, (item, x1, y1, x2, y2) in enumerate(rois):
        left, top = x1 * scale, y1 * scale
        wide, high = max((x2 - x1) * scale, 1.0), max((y2 - y1) * scale, 1.0)
        rows = ratio if ratio > 0 else math.ceil(high / bins[0])
        columns = ratio if ratio > 0 else math.ceil(wide / bins[1])
        for i, j in np.ndindex(bins):
            total = 0.0
            for a, b in np.ndindex(rows, columns):
                at_y = top + (i + (a + 0.5) / rows) * high / bins[0]
                at_x = left + (j + (b + 0.5) / columns) * wide / bins[1]
                total = total + sample(x[int(item)], at_y, at_x)
            y[r, :, i, j] = total / (rows * columns)
    return y


@pytest.mark.parametrize("ratio", ["", "sampling_ratio: 2", "sample_ratio: 3"])
@pytest.mark.parametrize("rois", [ROIS, ROIS.reshape(-1, 5, 1, 1)])
def test_align(ratio: str, rois: np.ndarray) -> None:
    samples = int(ratio[-1]) if ratio else -1
    net = check_layer(
        'type: "ROIAlign" roi_align_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 '
        f"{ratio} }}",
        [SHAPE, rois],
        [(4, 3, 2, 3)],
        lambda x, r: align(x, r, 0.5, (2, 3), samples),
        onnx=False,
    )
    feed = {"in0": torch.randn(SHAPE), "in1": torch.from_numpy(rois)}
    for opset in (13, 17):
        verify(net, feed=feed, opset=opset).require("ROIAlign")


def test_no_regions() -> None:
    layer = 'type: "ROIAlign" roi_align_param { pooled_h: 2 pooled_w: 2 }'
    net = Net(layer_spec_of(layer, [SHAPE, (1, 5)], 1, "TEST"))
    assert net.layer("l")(torch.zeros(SHAPE), torch.zeros(0, 5)).shape == (0, 3, 2, 2)


def test_an_item_that_is_not_there() -> None:
    layer = 'type: "ROIAlign" roi_align_param { pooled_h: 1 pooled_w: 1 }'
    net = Net(layer_spec_of(layer, [SHAPE, (1, 5)], 1, "TEST"))
    with pytest.raises(ShapeError, match="names item 2 of a batch of 2"):
        net.layer("l")(torch.zeros(SHAPE), torch.tensor([[2.0, 0, 0, 1, 1]]))


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("roi_align_param { pooled_h: 2 }", [SHAPE, (1, 5)], "give both, positive"),
        ("roi_pooling_param { pooled_h: 2 pooled_w: 2 }", [SHAPE, (1, 5)], "takes maxima"),
        ("roi_align_param { pooled_h: 2 pooled_w: 2 }", [SHAPE, (1, 4)], "5 numbers each"),
        ("roi_align_param { pooled_h: 2 pooled_w: 2 }", [(2, 3), (1, 5)], "4 axes"),
    ],
)
def test_errors(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(f'type: "ROIAlign" {text}', shapes, 1, "TEST"))
