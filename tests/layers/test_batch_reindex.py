import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.onnx_export.verify import verify
from tests.helpers import OPSETS, check_layer

INDEX = np.array([3, 0, 0, 2.0, 3, 0])


@pytest.mark.parametrize("shape", [(4, 3, 2), (4,)])
def test_batch_reindex(shape: tuple[int, ...]) -> None:
    net = check_layer(
        'type: "BatchReindex"',
        [shape, INDEX],
        [(6, *shape[1:])],
        lambda x, i: x[i.astype(int)],
        onnx=False,
    )
    feed = {"in0": torch.randn(shape), "in1": torch.from_numpy(INDEX).float()}
    for opset in OPSETS:
        assert verify(net, feed=feed, opset=opset).require("reindex").worst == 0


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (np.array([4.0]), "bottom 'in1' asks for item 4 of a batch of 4"),
        (np.array([-1.0]), "asks for item -1"),
        (np.array([[1.0]]), r"found \(4, 3\) and \(1, 1\)"),
    ],
)
def test_errors(index: np.ndarray, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer('type: "BatchReindex"', [(4, 3), index], [(1, 3)])
