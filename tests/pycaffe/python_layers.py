"""Classes of Python layers, written as pycaffe scripts write them."""

from __future__ import annotations

from typing import Any

import numpy as np

import caffe_bridge.pycaffe as caffe


class Simple(caffe.Layer):
    """Ten times the bottom."""

    def setup(self, bottom: Any, top: Any) -> None:
        pass

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = 10 * bottom[0].data

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        bottom[0].diff[...] = 10 * top[0].diff


class Failing(caffe.Layer):
    """Fails in setup."""

    def setup(self, bottom: Any, top: Any) -> None:
        raise RuntimeError("as meant")


class Parameter(caffe.Layer):
    """One learnable number."""

    def setup(self, bottom: Any, top: Any) -> None:
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 0

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(10)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = self.blobs[0].data

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        self.blobs[0].diff[0] = 1


class Phase(caffe.Layer):
    """Its phase as a number."""

    def setup(self, bottom: Any, top: Any) -> None:
        pass

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape()

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[()] = self.phase


class ParamStr(caffe.Layer):
    """The number in param_str."""

    def setup(self, bottom: Any, top: Any) -> None:
        if self.param_str != str(float(self.param_str)):
            raise ValueError(f"param_str must be a number, not {self.param_str!r}")

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = float(self.param_str) + bottom[0].data

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        bottom[0].diff[...] = float(self.param_str) * top[0].diff


class Digits(caffe.Layer):
    """Data: batches of two classes that a line separates; param_str is the batch size."""

    def setup(self, bottom: Any, top: Any) -> None:
        self.batch = int(self.param_str)
        self.rng = np.random.default_rng(0)

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(self.batch, 2)
        top[1].reshape(self.batch)

    def forward(self, bottom: Any, top: Any) -> None:
        values = self.rng.standard_normal((self.batch, 2))
        top[0].data[...] = values
        top[1].data[...] = values.sum(1) > 0

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        pass


class Counter(caffe.Layer):
    """Counts its calls in learnable blobs: reshape, forward, backward; y = x w."""

    def setup(self, bottom: Any, top: Any) -> None:
        self.blobs.add_blob(3)
        self.blobs.add_blob(1)
        self.kept = self.blobs[1].data
        self.blobs[1].data[0] = 2

    def reshape(self, bottom: Any, top: Any) -> None:
        self.blobs[0].data[0] += 1
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        self.blobs[0].data[1] += 1
        top[0].data[...] = bottom[0].data * self.kept

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        self.blobs[0].data[2] += 1
        self.blobs[0].diff[...] = [4, 5, 6]
        self.blobs[1].diff[0] += (top[0].diff * bottom[0].data).sum()
        bottom[0].diff[...] = top[0].diff * self.blobs[1].data


class Growing(caffe.Layer):
    """Makes a learnable blob in its second forward."""

    def setup(self, bottom: Any, top: Any) -> None:
        self.blobs.add_blob(1)
        self.calls = 0

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        self.calls += 1
        if self.calls == 2:
            self.blobs.add_blob(1)


class Constructed(Simple):
    """Takes the LayerParameter, as pycaffe's classes may."""

    def __init__(self, p_object: Any) -> None:
        super().__init__(p_object)
        self.name = p_object.name


class Bare:
    """No base and nothing to construct from; three times the bottom."""

    def __init__(self) -> None:
        self.factor = 3

    def setup(self, bottom: Any, top: Any) -> None:
        pass

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = self.factor * bottom[0].data
