import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.verify import verify
from tests.helpers import check_layer, net_text

WHOLE = (2, 4, 6, 7)


def crop(text: str) -> str:
    return f'type: "Crop" crop_param {{ {text} }}'


@pytest.mark.parametrize(
    ("text", "wanted", "part"),
    [
        ("", (2, 1, 4, 5), np.s_[:, :, :4, :5]),
        ("offset: 1", (2, 9, 4, 5), np.s_[:, :, 1:5, 1:6]),
        ("offset: 2 offset: 0", (2, 1, 4, 5), np.s_[:, :, 2:, :5]),
        ("axis: 1 offset: 1 offset: 0 offset: 2", (2, 3, 6, 2), np.s_[:, 1:, :, 2:4]),
        ("axis: -1 offset: 3", (2, 4, 1, 3), np.s_[..., 3:6]),
        ("axis: 0", (1, 2, 3, 4), np.s_[:1, :2, :3, :4]),
        ("axis: 2", (2, 4, 6, 7), np.s_[...]),
    ],
)
def test_part(text: str, wanted: tuple[int, ...], part) -> None:
    top = np.empty(WHOLE)[part].shape
    check_layer(crop(text), [WHOLE, wanted], [top], lambda x, _: x[part], gradient=False)


def test_gradient_fills_the_rest_with_zeros() -> None:
    net = Net(parse_net(net_text(crop("axis: 1 offset: 1"), [(1, 4), (1, 2)], 1)))
    x = torch.ones(1, 4, requires_grad=True)
    net.layer("l")(x, torch.zeros(1, 2)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 1, 1, 0]]


def test_a_cut_batch_follows_the_second_bottom() -> None:
    text = net_text(crop("axis: 0"), [(4, 3, 3), (4, 2, 2)], 1)
    half = 'layer { name: "h" type: "Crop" bottom: "out0" bottom: "in1" top: "y" }'
    net = Net(parse_net(f"{text}\n{half.replace('}', 'crop_param { axis: 1 } }')}"))
    found = verify(net, batches=(1, 3))
    assert found.batches == (1, 3)
    assert found.worst == 0
    cut = Net(parse_net(net_text(crop("axis: 0 offset: 1"), [(4, 3), (2, 2)], 1).replace(
        "offset: 1", "offset: 1 offset: 0")))  # fmt: skip
    assert verify(cut).worst == 0


@pytest.mark.parametrize(
    ("text", "wanted", "message"),
    [
        ("", (2, 4, 6), r"same number of axes, found \(2, 4, 6, 7\) and \(2, 4, 6\)"),
        ("axis: 4", WHOLE, "axis 4 is outside"),
        ("offset: 1 offset: 1 offset: 1", (2, 4, 1, 1), "3 offsets for 2 cropped axes"),
        ("offset: 3", (2, 4, 4, 4), "offset 3 plus size 4 exceeds size 6 of axis 2"),
    ],
)
def test_errors(text: str, wanted: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check_layer(crop(text), [WHOLE, wanted], [WHOLE])
