import numpy as np
import pytest
import torch

from caffe_bridge.errors import ExportError, ShapeError
from caffe_bridge.net import Net
from caffe_bridge.onnx_export import export
from caffe_bridge.onnx_export.verify import verify
from tests.helpers import check_layer, layer_spec_of
from tests.layers.test_upsample import SHAPE, masks, placed


def spread(
    x: np.ndarray, size: tuple[int, int], kernel: tuple[int, int], stride: int
) -> np.ndarray:
    y = np.zeros((*x.shape[:2], *size))
    for i, j in np.ndindex(x.shape[2:]):
        window = y[:, :, i * stride :, j * stride :][:, :, : kernel[0], : kernel[1]]
        window += x[:, :, i : i + 1, j : j + 1] / max(1, window[0, 0].size)
    return y


def corners(x: np.ndarray, size: tuple[int, int], stride: int) -> np.ndarray:
    y = np.zeros((*x.shape[:2], *size))
    for i, j in np.ndindex(x.shape[2:]):
        row, column = (min(k * stride, n - 1) for k, n in zip((i, j), size, strict=True))
        y[:, :, row, column] = x[:, :, i, j]
    return y


@pytest.mark.parametrize(
    ("text", "size", "stride"),
    [
        ("kernel_size: 2 stride: 2", (5, 7), 2),
        ("kernel_size: 3", (4, 5), 1),
        ("kernel_h: 2 kernel_w: 3 stride: 2 unpool_size: 6", (6, 6), 2),
        ("kernel_size: 2 stride: 2 unpool_h: 3 unpool_w: 5", (3, 5), 2),
    ],
)
@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_without_mask(text: str, size: tuple[int, int], stride: int, method: str) -> None:
    kernel = (2, 3) if "kernel_h" in text else (int(text[13]),) * 2

    def reference(x: np.ndarray) -> np.ndarray:
        if method == "AVE":
            return spread(x, size, kernel, stride)
        return corners(x, size, stride)

    check_layer(
        f'type: "Unpooling" unpooling_param {{ unpool: {method} {text} }}',
        [SHAPE],
        [(2, 3, *size)],
        reference,
    )


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        ('type: "Unpooling" unpooling_param { kernel_size: 2 stride: 2 unpool_size: 6 }', (6, 6)),
        ('type: "MaxUnpool" unpooling_param { kernel_size: 2 stride: 2 }', (4, 6)),
        ('type: "MaxUnpooling" unpooling_param { kernel_size: 3 stride: 2 pad: 1 }', (3, 5)),
        ('type: "MaxUnpool" unpooling_param { unpool_h: 4 unpool_w: 7 }', (4, 7)),
    ],
)
def test_by_mask(layer: str, size: tuple[int, int]) -> None:
    mask = masks(*size)
    net = check_layer(
        layer,
        [SHAPE, mask],
        [(2, 3, *size)],
        lambda x, m: placed(x, m, *size),
        onnx=False,
    )
    feed = {"in0": torch.randn(SHAPE), "in1": torch.from_numpy(mask)}
    verify(net, feed=feed).require("unpooling")


def test_windows_on_the_border_have_no_onnx_form() -> None:
    layer = 'type: "Unpooling" unpooling_param { kernel_size: 2 stride: 2 unpool_size: 2 }'
    net = Net(layer_spec_of(layer, [SHAPE], 1, "TEST"))
    x = np.arange(36, dtype=np.float32).reshape(SHAPE)
    y = net({"in0": torch.from_numpy(x)})["out0"].numpy()
    np.testing.assert_array_equal(y, corners(x, (2, 2), 2))
    with pytest.raises(ExportError, match=r"several windows begin on the border"):
        export(net)


@pytest.mark.parametrize(
    ("text", "bottoms", "message"),
    [
        ("", 1, "needs either kernel_size or both"),
        ("kernel_size: 2 stride_h: 2", 1, "needs either stride or both stride_h and stride_w"),
        ("kernel_size: 2 pad: 1", 1, r"pad is \(1, 1\); only 0"),
        ("kernel_size: 0", 1, "must be positive"),
        ("kernel_size: 2 unpool: STOCHASTIC", 1, "STOCHASTIC unpooling is not defined"),
        ("kernel_size: 2 unpool: AVE", 2, "only MAX takes a mask"),
    ],
)
def test_errors(text: str, bottoms: int, message: str) -> None:
    layer = f'type: "Unpooling" unpooling_param {{ {text} }}'
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(layer, [SHAPE] * bottoms, 1, "TEST"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "needs kernel_size and stride"), ("unpool_size: 4 unpool: AVE", "only MAX is defined")],
)
def test_max_unpool_errors(text: str, message: str) -> None:
    layer = f'type: "MaxUnpool" unpooling_param {{ {text} }}'
    with pytest.raises(ShapeError, match=message):
        Net(layer_spec_of(layer, [SHAPE, SHAPE], 1, "TEST"))
