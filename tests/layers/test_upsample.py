import numpy as np
import pytest
import torch

from caffe_bridge.errors import ShapeError
from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net
from caffe_bridge.onnx_export.verify import verify
from tests.helpers import check_layer, layer_spec_of

SHAPE = (2, 3, 2, 3)


def masks(high: int, wide: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(3)
    rows = [rng.permutation(high * wide)[: shape[2] * shape[3]] for _ in range(shape[0] * shape[1])]
    return np.array(rows, np.float32).reshape(shape)


def placed(x: np.ndarray, mask: np.ndarray, high: int, wide: int) -> np.ndarray:
    y = np.zeros((*x.shape[:2], high * wide))
    for n, c, i, j in np.ndindex(x.shape):
        if mask[n, c, i, j] >= 0:
            y[n, c, int(mask[n, c, i, j])] = x[n, c, i, j]
    return y.reshape(*x.shape[:2], high, wide)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("scale: 2", (4, 6)),
        ("", (4, 6)),
        ("scale_h: 2 scale_w: 3", (4, 9)),
        ("scale: 2 pad_out_h: true", (3, 6)),
        ("upsample_h: 5 upsample_w: 4", (5, 4)),
    ],
)
def test_by_mask(text: str, size: tuple[int, int]) -> None:
    mask = masks(*size)
    mask[0, 0, 0, 0] = -1
    net = check_layer(
        f'type: "Upsample" upsample_param {{ {text} }}',
        [SHAPE, mask],
        [(2, 3, *size)],
        lambda x, m: placed(x, m, *size),
        onnx=False,
    )
    feed = {"in0": torch.randn(SHAPE), "in1": torch.from_numpy(mask)}
    for opset in (13, 17):
        verify(net, feed=feed, opset=opset).require("unpooling")


@pytest.mark.parametrize(
    ("text", "scale"), [("scale: 2", (2, 2)), ("scale_h: 1 scale_w: 3", (1, 3))]
)
def test_nearest(text: str, scale: tuple[int, int]) -> None:
    check_layer(
        f'type: "Upsample" upsample_param {{ {text} }}',
        [SHAPE],
        [(2, 3, 2 * scale[0], 3 * scale[1])],
        lambda x: x.repeat(scale[0], 2).repeat(scale[1], 3),
    )


def test_undoes_the_pooling_that_made_the_mask() -> None:
    text = """
    layer { name: "i" type: "Input" top: "x" input_param { shape { dim: [2, 3, 4, 6] } } }
    layer { name: "p" type: "Pooling" bottom: "x" top: "y" top: "m"
            pooling_param { kernel_size: 2 stride: 2 } }
    layer { name: "u" type: "Upsample" bottom: "y" bottom: "m" top: "z"
            upsample_param { scale: 2 } }"""
    net = Net(parse_net(text))
    x = torch.randn(2, 3, 4, 6)
    z = net({"x": x})["z"]
    kept = z != 0
    assert int(kept.sum()) == 2 * 3 * 6
    assert torch.equal(z[kept], x[kept])
    verify(net).require("pooling and unpooling")


def test_a_place_outside_is_refused() -> None:
    layer = 'type: "Upsample" upsample_param { scale: 2 }'
    net = Net(layer_spec_of(layer, [SHAPE, SHAPE], 1, "TEST"))
    with pytest.raises(ShapeError, match="points to place 24 of an output of 4 x 6"):
        net({"in0": torch.zeros(SHAPE), "in1": torch.full(SHAPE, 24.0)})


@pytest.mark.parametrize(
    ("text", "bottoms", "message"),
    [
        ("", [SHAPE], "needs scale, or both scale_h and scale_w"),
        ("scale: 2 scale_h: 2 scale_w: 2", [SHAPE], "needs scale, or both"),
        ("scale: 0", [SHAPE], "give positive numbers"),
        ("upsample_h: 3", [SHAPE, SHAPE], "give both, positive"),
        ("scale: 2 pad_out_h: true", [SHAPE], "without a mask"),
        ("scale: 2", [SHAPE, (2, 3, 2, 2)], "does not fit bottom 0"),
        ("scale: 2", [(2, 3)], "4 axes"),
    ],
)
def test_errors(text: str, bottoms: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(f'type: "Upsample" upsample_param {{ {text} }}', bottoms, 1, "TEST"))
