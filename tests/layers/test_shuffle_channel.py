import numpy as np
import pytest

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.verify import verify
from tests.helpers import check_layer, net_text

LAYER = 'type: "ShuffleChannel" shuffle_channel_param { group: %d }'


@pytest.mark.parametrize(
    ("group", "order"), [(2, [0, 3, 1, 4, 2, 5]), (3, [0, 2, 4, 1, 3, 5]), (1, [0, 1, 2, 3, 4, 5])]
)
@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (3, 6)])
def test_shuffle(group: int, order: list[int], shape: tuple[int, ...]) -> None:
    check_layer(LAYER % group, [shape], [shape], lambda x: np.take(x, order, 1))


def test_after_a_layer_that_doubles_the_batch() -> None:
    text = net_text('type: "Concat" concat_param { axis: 0 }', [(2, 6, 3), (2, 6, 3)], 1)
    net = Net(parse_net(text + f'layer {{ name: "s" bottom: "out0" top: "y" {LAYER % 2} }}'))
    assert verify(net, batches=(1, 2, 5)).batches == (1, 2, 5)
    assert verify(net, batches=(1, 2, 5)).worst == 0


def test_the_group_must_divide_the_channels() -> None:
    with pytest.raises(ShapeError, match=r"shape \(2, 6, 3\) has no channels that divide into 4"):
        check_layer(LAYER % 4, [(2, 6, 3)], [(2, 6, 3)])
