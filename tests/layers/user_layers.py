"""Classes that the Python layers of the tests name."""

from __future__ import annotations

from caffe_bridge.layers.python import ArrayBlob, UserLayer

Blobs = list[ArrayBlob]


class Doubler(UserLayer):
    """y = factor x, the factor from param_str."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        self.factor = float(self.param_str or 2)

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        top[0].data[...] = self.factor * bottom[0].data

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        if propagate_down[0]:
            bottom[0].diff[...] = self.factor * top[0].diff


class Offset:
    """y = x + b with a learnable b; no base class, as a duck."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        self.blobs.add_blob(bottom[0].channels).data[...] = 0.5

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        top[0].data[...] = bottom[0].data + self.blobs[0].data

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        self.blobs[0].diff[...] += top[0].diff.sum(0)
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff


class Source(UserLayer):
    """A data layer that counts its batches."""

    def setup(self, bottom: Blobs, top: Blobs) -> None:
        self.batch = 0

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        top[0].reshape(2, 3)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        self.batch += 1
        top[0].data[...] = self.batch + 10 * self.phase


class Broken(UserLayer):
    """Fails in forward."""

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        top[0].reshape(1)

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        raise ValueError("no luck")


class InPlace(UserLayer):
    """y = 3 x on one blob: reads and writes the top alone."""

    def reshape(self, bottom: Blobs, top: Blobs) -> None:
        assert top[0] is bottom[0]

    def forward(self, bottom: Blobs, top: Blobs) -> None:
        top[0].data[...] *= 3

    def backward(self, top: Blobs, propagate_down: list[bool], bottom: Blobs) -> None:
        assert (top[0].data == 6).all()
        bottom[0].diff[...] *= 3
