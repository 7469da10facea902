import pytest
import torch

from caffe_bridge.errors import BlobError, ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net

TWO = 'layer { name: "i" type: "Input" top: "a" top: "b" input_param { %s } }'


def test_one_shape_serves_all_tops() -> None:
    net = Net(parse_net(TWO % "shape { dim: 2 dim: 3 }"))
    assert net.inputs == {"a": (2, 3), "b": (2, 3)}


def test_one_shape_each() -> None:
    net = Net(parse_net(TWO % "shape { dim: 2 } shape { dim: 4 dim: 1 }"))
    assert net.inputs == {"a": (2,), "b": (4, 1)}


def test_wrong_number_of_shapes() -> None:
    with pytest.raises(ShapeError, match="gives 3 shapes for 2 tops"):
        Net(parse_net(TWO % "shape { dim: 2 } shape { dim: 4 } shape { dim: 4 }"))


def test_an_input_that_is_not_fed_is_named() -> None:
    net = Net(parse_net(TWO % "shape { dim: 2 }"))
    with pytest.raises(BlobError, match="input 'b' was not given"):
        net({"a": torch.zeros(2)})
