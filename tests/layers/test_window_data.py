from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net

PICTURE = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)


def text(folder: Path, batch: int = 4, old: bool = False) -> str:
    assert cv2.imwrite(str(folder / "a.png"), PICTURE)
    (folder / "w.txt").write_text(f"# 0\n{folder}/a.png\n3 10 12\n2\n9 1 1 2 8 9\n1 0 0 0 5 5\n")
    head = "layers { type: WINDOW_DATA" if old else 'layer { type: "WindowData"'
    return (
        f'{head} name: "d" top: "x" top: "y" window_data_param {{ source: "{folder}/w.txt" '
        f"batch_size: {batch} fg_fraction: 0.25 {'crop_size: 4' if old else ''} }} "
        f"{'' if old else 'transform_param { crop_size: 4 }'} }}"
    )


@pytest.mark.parametrize("old", [True, False])
def test_windows(tmp_path: Path, old: bool) -> None:
    net = Net(parse_net(text(tmp_path, old=old), "TRAIN"))
    assert net.inputs == {"x": (4, 3, 4, 4), "y": (4,)}
    net.forward()
    np.testing.assert_array_equal(net.values["y"], [0, 0, 0, 9])
    for index, part in ((0, PICTURE[0:6, 0:6]), (3, PICTURE[2:10, 1:9])):
        want = cv2.resize(part, (4, 4)).transpose(2, 0, 1)
        np.testing.assert_array_equal(net.values["x"][index], want)


def test_batch_size(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"window_data_param\.batch_size is 0"):
        Net(parse_net(text(tmp_path, 0)))
