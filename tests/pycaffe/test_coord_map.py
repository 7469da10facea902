from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import caffe_bridge.pycaffe as caffe
from caffe_bridge.errors import GraphError
from caffe_bridge.pycaffe import layers as L  # noqa: N812
from caffe_bridge.pycaffe.coord_map import (
    AxisMismatchException,
    UndefinedMapException,
    compose,
    coord_map_from_to,
    crop,
    inverse,
)


def net(
    size: Any = 3, stride: Any = 1, pad: Any = 0, pool: int = 2, up: int | None = None
) -> caffe.NetSpec:
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [2, 1, 100, 100]})
    n.aux = L.Input(shape={"dim": [2, 1, 20, 20]})
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=size, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, pool=0, kernel_size=pool, stride=pool, pad=0)
    n.deconv = L.Deconvolution(
        n.pool, convolution_param={"num_output": 10, "kernel_size": up or pool, "stride": pool}
    )
    return n


def mapping(n: caffe.NetSpec, source: str, target: str) -> tuple[Any, Any, Any]:
    return coord_map_from_to(n[source], n[target])


@pytest.mark.parametrize(
    ("settings", "a", "b"),
    [({"size": 3, "pad": 1}, 1, 0), ({"size": 5, "pad": 0}, 1, 2), ({"size": 1, "pad": 0}, 1, 0),
     ({"size": 5, "pad": 3}, 1, -1)],
)  # fmt: skip
def test_windows_of_stride_one_only_move(settings: dict[str, int], a: float, b: float) -> None:
    axis, scale, offset = mapping(net(**settings), "deconv", "data")
    assert (axis, scale, offset) == (1, a, b)


def test_a_strided_window_scales() -> None:
    axis, scale, offset = mapping(net(size=3, stride=2, pad=1), "data", "conv")
    assert (axis, scale, offset) == (1, 0.5, 0)


def test_the_map_back_is_the_inverse() -> None:
    n = net(size=5, stride=2, pad=1)
    there, back = mapping(n, "data", "pool"), mapping(n, "pool", "data")
    assert compose(there, back)[1:] == pytest.approx((1, 0))
    assert inverse(there)[1:] == pytest.approx(back[1:])


def test_element_wise_layers_change_nothing() -> None:
    n = net(pad=1)
    n.relu = L.ReLU(n.conv, in_place=True)
    n.sum = L.Eltwise(n.relu, n.conv)
    assert mapping(n, "sum", "data")[1:] == (1, 0)
    assert mapping(n, "data", "data") == (None, 1, 0)


def test_rectangles_and_dilation() -> None:
    _, scale, offset = mapping(net(size=[3, 5], pad=[1, 2]), "data", "conv")
    assert np.all(scale == 1)
    assert np.all(offset == 0)
    n = net()
    n.hole = L.Convolution(n.data, num_output=1, kernel_size=3, dilation=2, pad=2)
    assert mapping(n, "data", "hole")[2] == 0
    n.wide = L.Convolution(n.data, num_output=1, kernel_h=3, kernel_w=5, pad_h=1, pad_w=2)
    assert np.all(mapping(n, "data", "wide")[2] == 0)


def test_other_axes() -> None:
    n = net()
    n.deep = L.Convolution(n.data, num_output=1, kernel_size=3, pad=1, axis=2)
    assert mapping(n, "data", "deep")[0] == 2
    n.both = L.Convolution(n.deep, num_output=1, kernel_size=3, pad=1, axis=1)
    with pytest.raises(AxisMismatchException, match="axes"):
        mapping(n, "data", "both")


def test_unrelated_or_unknown_layers_have_no_map() -> None:
    n = net()
    with pytest.raises(UndefinedMapException, match="no common ancestor"):
        mapping(n, "aux", "conv")
    n.ip = L.InnerProduct(n.data, num_output=1)
    with pytest.raises(UndefinedMapException, match="no common ancestor"):
        mapping(n, "ip", "data")
    n.all = L.Pooling(n.data, global_pooling=True)
    with pytest.raises(UndefinedMapException, match="no common ancestor"):
        mapping(n, "all", "data")


def test_crop_of_an_upsampled_score() -> None:
    n = net(size=3, pad=5)
    made = crop(n.deconv, n.data)
    assert made.fn.params["crop_param"] == {"axis": 2, "offset": [4]}
    n.crop = made
    built = caffe.Net(_write(n), caffe.TEST)
    assert built.blobs["crop"].shape[2:] == built.blobs["data"].shape[2:]
    assert mapping(n, "crop", "data")[1:] == (1, 0)


def _write(n: caffe.NetSpec) -> str:
    with open("crop.prototxt", "w") as stream:
        stream.write(str(n.to_proto()))
    return "crop.prototxt"


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": 3, "stride": 2, "pad": 1}, "scales differ"), ({"size": 5, "pad": 0}, "negative"),
     ({"size": 4, "pad": 2}, "no whole number")],
)  # fmt: skip
def test_impossible_crops(settings: dict[str, int], message: str) -> None:
    n = net(**settings)
    with pytest.raises(GraphError, match=message):
        crop(n.deconv, n.data)
