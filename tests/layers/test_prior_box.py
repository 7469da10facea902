import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from tests.helpers import check_layer


def boxes(sizes: list[tuple[float, float]], step: tuple[float, float], offset: float) -> np.ndarray:
    """Corners for a 2 x 3 map on a 20 x 60 image, boxes given as (width, height) pixels."""
    rows = [
        [
            ((j + offset) * step[1] - w / 2) / 60,
            ((i + offset) * step[0] - h / 2) / 20,
            ((j + offset) * step[1] + w / 2) / 60,
            ((i + offset) * step[0] + h / 2) / 20,
        ]
        for i in range(2)
        for j in range(3)
        for w, h in sizes
    ]
    return np.array(rows).reshape(-1)


def check(text: str, corners: np.ndarray, variances: list[float]) -> None:
    count = corners.size
    check_layer(
        f'type: "PriorBox" prior_box_param {{ {text} }}',
        [(2, 4, 2, 3), (2, 3, 20, 60)],
        [(1, 2, count)],
        lambda *_: np.stack([corners, np.tile(variances, count // 4)])[None],
        gradient=False,
    )


def test_defaults() -> None:
    check("min_size: 8", boxes([(8, 8)], (10, 20), 0.5), [0.1] * 4)


def test_ratios_and_larger_squares() -> None:
    root = np.sqrt(2)
    sizes = []
    for small, large in ((4, 9), (10, 16)):
        side = np.sqrt(small * large)
        sizes += [(small, small), (side, side)]
        sizes += [(small * root, small / root), (small / root, small * root)]
    check(
        "min_size: 4 min_size: 10 max_size: 9 max_size: 16 "
        "aspect_ratio: 2 aspect_ratio: 1 aspect_ratio: 0.5",
        boxes(sizes, (10, 20), 0.5),
        [0.1] * 4,
    )


def test_variances_steps_offset_and_no_flip() -> None:
    root = np.sqrt(3)
    check(
        "min_size: 6.5 aspect_ratio: 3 flip: false variance: 0.1 variance: 0.1 variance: 0.2 "
        "variance: 0.2 step_h: 8 step_w: 16 offset: 0.25",
        boxes([(6.5, 6.5), (6.5 * root, 6.5 / root)], (8, 16), 0.25),
        [0.1, 0.1, 0.2, 0.2],
    )


def test_clip_and_image_size() -> None:
    check(
        "min_size: 30 clip: true img_h: 20 img_w: 60 variance: 0.5",
        boxes([(30, 30)], (10, 20), 0.5).clip(0, 1),
        [0.5] * 4,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"min_size is \[\]; give one or more positive"),
        ("min_size: 4 max_size: 3", r"max_size \[3\.0\] must have a larger number"),
        ("min_size: 4 min_size: 5 max_size: 9", "must have a larger number for each"),
        ("min_size: 4 aspect_ratio: -1", "aspect_ratio -1.* must be positive"),
        ("min_size: 4 variance: 1 variance: 2", "give one or four positive numbers"),
        ("min_size: 4 step: 4 step_h: 4", "gives both step and step_h / step_w"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check(text, np.zeros(4), [0.1] * 4)


def test_bottoms_must_be_maps() -> None:
    with pytest.raises(ShapeError, match=r"must both be \(N, C, H, W\)"):
        check_layer(
            'type: "PriorBox" prior_box_param { min_size: 4 }', [(2, 3), (2, 3, 4, 4)], [(1, 2, 4)]
        )
