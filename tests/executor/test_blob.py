"""Blobs: live views, shapes, legacy sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_bridge.pycaffe.blob import Blob, ParamBlob


def test_views_are_live() -> None:
    values = torch.zeros(2, 3)
    blob = Blob(values)
    blob.data[0, 1] = 5
    blob.diff[...] = 7
    assert values[0, 1] == 5
    assert blob.data[0, 1] == 5
    assert (blob.diff == 7).all()
    assert blob.data.dtype == blob.diff.dtype == np.float32


def test_diff_starts_at_zero() -> None:
    blob = Blob(torch.ones(2))
    assert not blob.diff.any()


def test_sizes() -> None:
    blob = Blob(torch.zeros(4, 3, 2))
    assert blob.shape == (4, 3, 2)
    assert blob.count == 24
    assert (blob.num, blob.channels, blob.height, blob.width) == (4, 3, 2, 1)
    scalar = Blob(torch.tensor(3.0))
    assert (scalar.shape, scalar.count, scalar.num) == ((), 1, 1)


@pytest.mark.parametrize(("shape", "kept"), [((3, 2), 6), ((2,), 2), ((2, 5), 6), ((0, 4), 0)])
def test_reshape_keeps_memory_as_far_as_it_fits(shape: tuple[int, ...], kept: int) -> None:
    blob = Blob(torch.arange(1.0, 7.0).reshape(2, 3))
    blob.diff[...] = 1
    blob.reshape(*shape)
    assert blob.shape == shape
    want = [float(i + 1) if i < kept else 0.0 for i in range(blob.count)]
    assert blob.data.ravel().tolist() == want
    assert blob.diff.shape == shape


def test_reshape_to_the_same_shape_keeps_views() -> None:
    blob = Blob(torch.zeros(2, 3))
    view = blob.data
    blob.reshape(2, 3)
    view[...] = 4
    assert (blob.data == 4).all()


def test_param_blob_shows_parameter_and_gradient() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    blob = ParamBlob(parameter)
    blob.data[0, 0] = 9
    blob.diff[...] = 3
    assert parameter[0, 0].item() == 9
    assert parameter.grad is not None
    assert (parameter.grad == 3).all()
    blob.gradient = torch.zeros(2, 2)
    assert not blob.diff.any()


def test_param_blob_reshape_reaches_the_parameter() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    blob = ParamBlob(parameter)
    blob.diff[...] = 1
    blob.reshape(3, 2)
    assert tuple(parameter.shape) == blob.shape == (3, 2)
    assert blob.diff.shape == (3, 2)
