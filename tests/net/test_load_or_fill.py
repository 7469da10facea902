"""Nets made with weights: fillers run only for what the file lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_bridge.errors import WeightError
from caffe_bridge.graph import parse_net
from caffe_bridge.layers import fillers
from caffe_bridge.net import Net, build
from caffe_bridge.schema import load_weights
from caffe_bridge.schema.weights import Weights

TEXT = """
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 3 dim: 20 dim: 20 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 8 kernel_size: 3 weight_filler { type: "gaussian" std: 0.1 }
  bias_filler { type: "constant" value: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param {
  num_output: 500 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 3 } } }
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Net(parse_net(TEXT), seed=3).save(tmp_path_factory.mktemp("w") / "net.caffemodel")


def values(net: Net) -> list[np.ndarray]:
    return [blob.value.detach().numpy() for blob in net.learnable]


def test_weights_replace_fillers(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        fillers.FILLERS, "gaussian", lambda *_: pytest.fail("a filler ran for stored weights")
    )
    monkeypatch.setitem(
        fillers.FILLERS, "xavier", lambda *_: pytest.fail("a filler ran for stored weights")
    )
    net = Net(parse_net(TEXT), weights=stored)
    assert net.missing == []
    kept = load_weights(stored)
    for blob, value in zip(net.learnable, values(net), strict=True):
        found = kept.blobs[blob.layer][blob.index]
        assert found is not None
        assert np.array_equal(found.array(), value)


def test_layers_that_the_file_lacks_are_filled(stored: Path) -> None:
    spec = parse_net(TEXT.replace('"ip"', '"new"'))
    net = Net(spec, weights=stored, seed=5)
    assert net.missing == ["new"]
    conv, bias, weight, filled = values(net)
    assert np.array_equal(conv, values(Net(parse_net(TEXT), seed=3))[0])
    assert (bias == 2).all()
    bound = np.sqrt(3 / weight.shape[1])
    assert 0.99 * bound < np.abs(weight).max() <= bound
    assert (filled == 3).all()
    assert all(
        np.array_equal(a, b)
        for a, b in zip(values(net), values(Net(spec, weights=stored, seed=5)), strict=True)
    )


def test_a_blob_shared_with_an_earlier_layer_is_not_filled(stored: Path) -> None:
    named = TEXT.replace('top: "ip"', 'top: "ip" param { name: "w" }')
    start = named.index('layer { name: "ip"')
    second = named[start:].replace('"ip"', '"ip2"')
    kept = load_weights(stored)
    blobs = {**kept.blobs, "ip2": [None, kept.blobs["ip"][1]]}
    net = Net(parse_net(named + second), weights=Weights("w", blobs))
    found = kept.blobs["ip"][0]
    assert found is not None
    assert net.layer("ip2").blobs[0] is net.layer("ip").blobs[0]
    assert np.array_equal(net.layer("ip2").blobs[0].detach().numpy(), found.array())
    assert len(net.learnable) == 5


def test_a_seed_means_the_same_net_without_weights() -> None:
    first, again = Net(parse_net(TEXT), seed=7), Net(parse_net(TEXT), seed=7)
    for a, b in zip(values(first), values(again), strict=True):
        assert np.array_equal(a, b)
    generator = torch.Generator().manual_seed(7)
    expected = torch.zeros(8, 3, 3, 3).normal_(0, 0.1, generator=generator)
    assert np.array_equal(values(first)[0], expected.numpy())


def test_a_net_without_fill_is_zero() -> None:
    net = Net(parse_net(TEXT), built=build(parse_net(TEXT), fill=False))
    assert all((value == 0).all() for value in values(net))


def test_weights_into_a_built_net_only_copy(stored: Path) -> None:
    spec = parse_net(TEXT.replace('"ip"', '"new"'))
    net = Net(spec, weights=stored, built=build(spec, fill=False))
    assert net.missing == ["new"]
    assert (values(net)[2] == 0).all()


def test_wrong_weights_still_fail(stored: Path) -> None:
    with pytest.raises(WeightError, match="the net wants"):
        Net(parse_net(TEXT.replace("num_output: 8", "num_output: 9")), weights=stored)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (), (1 << 20,), (1 << 10, (1 << 10) + 3)])
def test_zeros_are_aligned_and_writable(shape: tuple[int, ...]) -> None:
    found = fillers.zeros(shape)
    assert (tuple(found.shape), found.dtype) == (shape, torch.float32)
    assert found.is_contiguous()
    assert found.data_ptr() % 64 == 0
    assert not found.any()
    found.fill_(1)
    assert found.sum() == found.numel()
