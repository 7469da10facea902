import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from tests.helpers import check_layer, net_text
from tests.layers.losses import check_onnx, normal

TEXT = (
    'type: "ContinuationIndicator" continuation_indicator_param {{ time_step: {} batch_size: {} }}'
)


def test_values() -> None:
    want = np.array([[0, 0], [1, 1], [1, 1]])
    check_layer(TEXT.format(3, 2), [], [(3, 2)], lambda: want, gradient=False, onnx=False)


def test_feeds_an_lstm() -> None:
    text = (
        net_text('type: "Power"', [(3, 2, 4)], 1)
        + f"""
    layer {{ name: "c" {TEXT.format(3, 2)} top: "cont" }}
    layer {{ name: "m" type: "LSTM" bottom: "out0" bottom: "cont" top: "y"
             recurrent_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
    """
    )
    net = Net(parse_net(text, "TEST"))
    x = normal(3, 2, 4)
    first, second = (net({"in0": torch.from_numpy(x)})["y"].detach().numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    check_onnx(net, [x])


def test_sizes() -> None:
    with pytest.raises(ShapeError, match="time_step 0 and batch_size 2 must be positive"):
        Net(parse_net(net_text(TEXT.format(0, 2), [], 1), "TEST"))
