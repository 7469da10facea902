import math

import numpy as np
import pytest

from caffe_bridge.errors import DataError, ShapeError
from tests.layers.losses import check_loss, check_onnx, normal

ROIS = np.array(
    [
        [0, 0, 0, 6, 7],
        [1, 2.5, 1.4, 2.5, 1],
        [0, 1, 3, 11, 13],
        [1, -4.5, 1, 9, 3],
        [0, 6, 6, 3, 2],
        [1, 40, 40, 50, 50],
    ],
    np.float32,
)


def away(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def pool(x: np.ndarray, rois: np.ndarray, outputs: int, bins: int, scale: float) -> np.ndarray:
    y = np.zeros((len(rois), outputs, bins, bins))
    for n, roi in enumerate(rois.reshape(-1, 5)):
        left, top = away(roi[1]) * scale, away(roi[2]) * scale
        width = max((away(roi[3]) + 1) * scale - left, 0.1) / bins
        height = max((away(roi[4]) + 1) * scale - top, 0.1) / bins
        for i in range(bins):
            for j in range(bins):
                rows = slice(
                    max(math.floor(i * height + top), 0), max(math.ceil((i + 1) * height + top), 0)
                )
                columns = slice(
                    max(math.floor(j * width + left), 0), max(math.ceil((j + 1) * width + left), 0)
                )
                for d in range(outputs):
                    part = x[int(roi[0]), (d * bins + i) * bins + j, rows, columns]
                    y[n, d, i, j] = part.mean() if part.size else 0
    return y


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(("outputs", "bins"), [(3, 2), (1, 4), (2, 1)])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1, 1)])
def test_means(scale: float, outputs: int, bins: int, shape: tuple[int, ...]) -> None:
    bottoms = [normal(2, outputs * bins * bins, 8, 7), ROIS.reshape(shape)]
    net = check_loss(
        f'type: "PSROIPooling" psroi_pooling_param {{ spatial_scale: {scale} '
        f"output_dim: {outputs} group_size: {bins} }}",
        bottoms,
        lambda x, rois: pool(x, rois, outputs, bins, scale),
        tops=[(6, outputs, bins, bins)],
        onnx=False,
    )
    check_onnx(net, bottoms)


def test_region_of_a_missing_image() -> None:
    with pytest.raises(DataError, match="a region names image 1, but the map has images 0 to 0"):
        check_loss(
            'type: "PSROIPooling" psroi_pooling_param '
            "{ spatial_scale: 1 output_dim: 1 group_size: 2 }",
            [normal(1, 4, 8, 7), ROIS],
            lambda *_: None,
        )


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("spatial_scale: 1 output_dim: 2", (1, 5), "output_dim 2, group_size 0"),
        ("output_dim: 1 group_size: 2", (1, 5), "spatial_scale 0 must be given"),
        ("spatial_scale: 1 output_dim: 1 group_size: 2", (1, 4), r"regions \(R, 5\)"),
        ("spatial_scale: 1 output_dim: 2 group_size: 2", (1, 5), r"a map \(N, 8, H, W\)"),
    ],
)
def test_errors(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_loss(
            f'type: "PSROIPooling" psroi_pooling_param {{ {text} }}',
            [normal(1, 4, 8, 7), np.zeros(shape)],
            lambda *_: None,
        )
