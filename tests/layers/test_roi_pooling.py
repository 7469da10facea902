import math

import numpy as np
import pytest

from caffe_bridge.errors import DataError, ExportError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from tests.helpers import net_text
from tests.layers.losses import check_loss, check_onnx, gradients, normal

ROIS = np.array(
    [
        [0, 0, 0, 6, 7],
        [1, 2, 1, 2, 1],
        [0, 1, 3, 11, 13],
        [1, 5, 1, 9, 3],
        [0, 6, 6, 3, 2],
        [1, 40, 40, 50, 50],
    ],
    np.float32,
)


def away(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def pool(x: np.ndarray, rois: np.ndarray, ph: int, pw: int, scale: float) -> np.ndarray:
    y = np.zeros((len(rois), x.shape[1], ph, pw))
    for n, roi in enumerate(rois.reshape(-1, 5)):
        x1, y1, x2, y2 = (away(v * scale) for v in roi[1:])
        height = np.float32(max(y2 - y1 + 1, 1)) / np.float32(ph)
        width = np.float32(max(x2 - x1 + 1, 1)) / np.float32(pw)
        for i in range(ph):
            for j in range(pw):
                top, low = math.floor(i * height) + y1, math.ceil((i + 1) * height) + y1
                left, end = math.floor(j * width) + x1, math.ceil((j + 1) * width) + x1
                part = x[int(roi[0]), :, max(top, 0) : max(low, 0), max(left, 0) : max(end, 0)]
                if part.size:
                    y[n, :, i, j] = part.max((1, 2))
    return y


def check(text: str, bottoms: list[np.ndarray], reference: object, top: tuple[int, ...]) -> None:
    net = check_loss(
        f'type: "ROIPooling" roi_pooling_param {{ {text} }}',
        bottoms,
        reference,
        tops=[top],
        gradient=False,
        onnx=False,
    )
    check_onnx(net, bottoms, opsets=(13, 17, 21))


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(("ph", "pw"), [(2, 2), (3, 5), (1, 1)])
def test_pooling(scale: float, ph: int, pw: int) -> None:
    check(
        f"pooled_h: {ph} pooled_w: {pw} spatial_scale: {scale}",
        [normal(2, 3, 8, 7), ROIS],
        lambda x, rois: pool(x, rois, ph, pw, scale),
        (6, 3, ph, pw),
    )


def test_gradient() -> None:
    check_loss(
        'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 }',
        [normal(1, 1, 4, 4), np.array([[0, 0, 0, 2, 3]])],
        lambda x, rois: pool(x, rois, 2, 2, 1.0),
        tops=[(1, 1, 2, 2)],
        onnx=False,
    )


def test_gradient_goes_to_the_first_maximum() -> None:
    bottoms = [np.ones((1, 1, 3, 3)), np.array([[0.0, 0, 0, 2, 2]])]
    net = check_loss(
        'type: "ROIPooling" roi_pooling_param { pooled_h: 1 pooled_w: 1 }',
        bottoms,
        lambda *_: np.ones((1, 1, 1, 1)),
        tops=[(1, 1, 1, 1)],
        gradient=False,
        onnx=False,
    )
    assert gradients(net, bottoms)[0].ravel().tolist() == [1.0] + [0.0] * 8


def test_regions_with_more_axes() -> None:
    check(
        "pooled_h: 2 pooled_w: 2",
        [normal(2, 3, 8, 7), ROIS.reshape(6, 5, 1, 1)],
        lambda x, rois: pool(x, rois, 2, 2, 1.0),
        (6, 3, 2, 2),
    )


def test_newer_opsets_are_refused() -> None:
    text = net_text(
        'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 }',
        [(1, 1, 4, 4), (1, 5)],
        1,
    )
    with pytest.raises(ExportError, match="onnxruntime has not got from opset 22 on"):
        export(Net(parse_net(text, "TEST")), opset=22)


def test_region_of_a_missing_image() -> None:
    with pytest.raises(DataError, match="a region names image 0 or 1, but the map has images 0 to"):
        check_loss(
            'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 }',
            [normal(1, 3, 8, 7), ROIS],
            lambda *_: None,
        )


@pytest.mark.parametrize(
    ("bins", "rois", "message"),
    [
        ("pooled_h: 2", (3, 5), "pooled_h 2 and pooled_w 0 must be positive"),
        ("pooled_h: 2 pooled_w: 2", (3, 4), r"\(3, 4\) must be a map"),
    ],
)
def test_errors(bins: str, rois: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_loss(
            f'type: "ROIPooling" roi_pooling_param {{ {bins} }}',
            [normal(2, 3, 8, 7), np.zeros(rois)],
            lambda *_: None,
        )
