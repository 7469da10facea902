from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.verify import verify
from tests.data.test_annotated import PICTURES, database, datum, rows


def text(path: Path, batch: int = 2) -> str:
    return (
        'layer { name: "d" type: "AnnotatedData" top: "x" top: "y" transform_param { scale: 0.5 } '
        f'data_param {{ source: "{path}" backend: LMDB batch_size: {batch} }} }}'
        'layer { name: "r" type: "ReLU" bottom: "x" top: "z" }'
    )


def test_batches_with_their_boxes(tmp_path: Path) -> None:
    net = Net(parse_net(text(database(tmp_path / "db", datum(0), datum(1), datum(2)))))
    assert net.inputs == {"x": (2, 3, 6, 8), "y": (1, 1, 2, 8)}
    for items in ((0, 1), (2, 0), (1, 2)):
        net.forward()
        np.testing.assert_array_equal(net.values["y"], rows(*items))
        want = np.stack([PICTURES[i].transpose(2, 0, 1) for i in items]) * np.float32(0.5)
        np.testing.assert_array_equal(net.values["z"], want)
    net.layer("d").reset()
    net.forward()
    np.testing.assert_array_equal(net.values["y"], rows(0, 1))


def test_its_tops_are_graph_inputs(tmp_path: Path) -> None:
    net = Net(parse_net(text(database(tmp_path / "db", datum(0)))))
    feed = {"x": torch.randn(2, 3, 6, 8), "y": torch.zeros(1, 1, 2, 8)}
    assert verify(net, feed=feed).passed


def test_batch_size(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"data_param\.batch_size is 0"):
        Net(parse_net(text(database(tmp_path / "db", datum(0)), 0)))
