"""Python: layers that the user writes as pycaffe classes, run only after permission."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caffe_bridge.errors import GraphError
from caffe_bridge.graph import LayerSpec, Shape
from caffe_bridge.layers.base import BlobSpec, Emitter, Layer, at_least
from caffe_bridge.layers.registry import LAYERS, register
from caffe_bridge.schema import Record

_PHASES = {"TRAIN": 0, "TEST": 1}
_permission = {"granted": False}


def allow_python_layers(allowed: bool = True) -> bool:
    """Permit or forbid that nets import and run the classes that their Python layers name.

    A prototxt with a Python layer runs any code that can be imported, so it is forbidden unless
    the caller trusts the net.

    Returns:
        The permission before, to be restored.
    """
    before = _permission["granted"]
    _permission["granted"] = allowed
    return before


class ArrayBlob:
    """A blob as the user's class sees it: float32 arrays ``data`` and ``diff`` of one shape."""

    def __init__(self, *shape: int) -> None:
        self.data = np.zeros(shape, np.float32)
        self.diff = np.zeros(shape, np.float32)

    @property
    def shape(self) -> Shape:
        """Sizes of all axes."""
        return self.data.shape

    @property
    def count(self) -> int:
        """Number of values."""
        return self.data.size

    @property
    def num(self) -> int:
        """Size of axis 0 (legacy name)."""
        return self._size(0)

    @property
    def channels(self) -> int:
        """Size of axis 1 (legacy name)."""
        return self._size(1)

    @property
    def height(self) -> int:
        """Size of axis 2 (legacy name)."""
        return self._size(2)

    @property
    def width(self) -> int:
        """Size of axis 3 (legacy name)."""
        return self._size(3)

    def _size(self, axis: int) -> int:
        return self.shape[axis] if axis < len(self.shape) else 1

    def reshape(self, *shape: int) -> None:
        """Take another shape; values are lost when it differs."""
        if tuple(shape) != self.shape:
            self.data = np.zeros(shape, np.float32)
            self.diff = np.zeros(shape, np.float32)

    def put(self, values: Tensor) -> None:
        """Copy a tensor of the blob's shape into ``data``."""
        self.data[...] = values.detach().cpu().numpy()


class BlobList(list[ArrayBlob]):
    """Learnable blobs of a user's class, made in ``setup``."""

    def add_blob(self, *shape: int) -> ArrayBlob:
        """Append a blob of zeros and return it."""
        self.append(ArrayBlob(*shape))
        return self[-1]


class UserLayer:
    """Base for the user's class, like pycaffe's Layer; subclassing it is optional.

    Before ``setup`` it has ``param_str``, ``phase`` (0 TRAIN, 1 TEST) and ``blobs``.
    """

    param_str: str
    phase: int
    blobs: BlobList

    def __init__(self, layer_param: Record | None = None) -> None:
        """Made with the LayerParameter, as in pycaffe."""

    def setup(self, bottom: list[ArrayBlob], top: list[ArrayBlob]) -> None:
        """Read ``param_str`` and check the blobs; called once."""

    def reshape(self, bottom: list[ArrayBlob], top: list[ArrayBlob]) -> None:
        """Shape the tops; called before every forward."""

    def forward(self, bottom: list[ArrayBlob], top: list[ArrayBlob]) -> None:
        """Fill the tops' data."""

    def backward(
        self, top: list[ArrayBlob], propagate_down: list[bool], bottom: list[ArrayBlob]
    ) -> None:
        """Fill the bottoms' diff from the tops'."""


def _instance(kind: type[Any], record: Record) -> Any:
    """An object of the user's class, from the LayerParameter where its constructor takes it."""
    try:
        inspect.signature(kind).bind(record)
    except (TypeError, ValueError):
        return kind()
    return kind(record)


class _Run(torch.autograd.Function):
    """The user's forward and backward as one operation on the bottoms and learnable blobs."""

    @staticmethod
    def forward(ctx: Any, layer: Python, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.layer = layer
        tops = layer.compute(inputs)
        ctx.save_for_backward(*inputs, *tops)
        return tops

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.saved_tensors) - len(grads)
        inputs, tops = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        wanted = ctx.needs_input_grad[1:]
        return None, *ctx.layer.differentiate(inputs, tops, grads, wanted)


@register("Python")
class Python(Layer):
    """Whatever the class ``module.layer`` computes, with pycaffe's protocol.

    Its methods are setup(bottom, top), reshape(bottom, top), forward(bottom, top) and
    backward(top, propagate_down, bottom) on blobs with float32 arrays ``data`` and ``diff``.

    Bottoms:
        any.
    Tops:
        any, of the shapes that the class gives them; in place it is the bottom's own blob.
    Blobs:
        those that ``setup`` makes with ``self.blobs.add_blob(*shape)``.
    Parameters:
        module, layer: the class; param_str: a text that the class finds as ``self.param_str``.
    Gradient:
        the diffs that ``backward`` leaves. ``self.blobs[i].diff`` holds the gradient so far: adding
        to it accumulates over passes, setting it replaces. What a method writes into
        ``self.blobs[i].data`` stays.
    ONNX:
        refused.
    Caffe source:
        python_layer.hpp, python/caffe/_caffe.cpp
    Differences:
        runs only after ``allow_python_layers()``; the class works on the CPU in float32, on arrays
        that are copied from and to bottoms, tops and learnable blobs around each call. Without
        permission a class that is registered as a layer type ``module.layer``, such as
        ``rpn.proposal_layer.ProposalLayer``, is computed by that type; nothing is imported.
    """

    param_field = "python_param"
    bottoms = at_least(0)
    tops = at_least(0)

    @classmethod
    def resolve(cls, spec: LayerSpec) -> type[Layer]:
        """The built-in layer that stands for a well-known class, unless user's code may run."""
        p = spec.record.python_param
        known = f"{p.module}.{p.layer}"
        return LAYERS.get(known) if known in LAYERS and not _permission["granted"] else cls

    def configure(self) -> None:
        """Import the class.

        Raises:
            GraphError: no permission, or the class cannot be imported or made.
        """
        self.where = f"{self.p.module}.{self.p.layer}"
        if not _permission["granted"]:
            raise GraphError(
                f"{self.spec.label()}: runs the user's code {self.where}, which is not allowed; "
                "if you trust the net, write 'caffe-bridge --allow-python COMMAND', or in a script "
                "call caffe_bridge.layers.python.allow_python_layers() first."
            )
        try:
            made = _instance(getattr(importlib.import_module(self.p.module), self.p.layer),
                             self.spec.record)  # fmt: skip
        except Exception as error:
            raise GraphError(
                f"{self.spec.label()}: cannot make {self.where}: {error}; is its folder on "
                "PYTHONPATH?"
            ) from error
        made.param_str = self.p.param_str
        made.phase = _PHASES[self.phase]
        made.blobs = BlobList()
        self.user = made
        self.seen = [ArrayBlob() for _ in self.spec.bottoms]
        own = dict(zip(self.spec.bottoms, self.seen, strict=True))
        #: A top in place is the bottom itself.
        self.made = [own.get(top) or ArrayBlob() for top in self.spec.tops]
        self.ready = False

    def call(self, method: str, *arguments: Any) -> None:
        """Run a method of the user's object.

        Raises:
            GraphError: it is missing or fails.
        """
        try:
            getattr(self.user, method)(*arguments)
        except Exception as error:
            raise GraphError(
                f"{self.spec.label()}: {self.where}.{method} failed with "
                f"{type(error).__name__}: {error}"
            ) from error

    def infer(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Ask the class: setup on the first call, reshape on every one."""
        for blob, shape in zip(self.seen, shapes, strict=True):
            blob.reshape(*shape)
        if not self.ready:
            self.call("setup", self.seen, self.made)
            self.ready = True
        with self.own_blobs():
            self.call("reshape", self.seen, self.made)
        return [blob.shape for blob in self.made]

    def blob_specs(self, shapes: Sequence[Shape]) -> list[BlobSpec]:
        """Those that the class made."""
        return [BlobSpec(blob.shape) for blob in self.user.blobs]

    def fill_blob(
        self, blob: BlobSpec, value: nn.Parameter, generator: torch.Generator | None = None
    ) -> None:
        """The value that the class gave the blob in setup."""
        index = next(i for i, own in enumerate(self.blobs) if own is value)
        value.detach().copy_(torch.from_numpy(self.user.blobs[index].data))

    @contextmanager
    def own_blobs(self) -> Iterator[list[np.ndarray]]:
        """Give the class its learnable blobs, then keep what it wrote into ``data`` and ``diff``.

        Yields:
            The accumulated gradients before.

        Raises:
            ShapeError: the class changed their number or shapes after setup.
        """
        before = []
        for blob, value in zip(self.user.blobs, self.blobs, strict=False):
            blob.put(value)
            blob.diff[...] = 0 if value.grad is None else value.grad.detach().cpu().numpy()
            before.append(blob.diff.copy())
        yield before
        if not len(self.blobs):
            return
        wanted = [tuple(value.shape) for value in self.blobs]
        found = [tuple(blob.shape) for blob in self.user.blobs]
        if found != wanted:
            self.fail(
                f"{self.where} changed its learnable blobs from {wanted} to {found} after setup; "
                "make them in setup."
            )
        for blob, value, old in zip(self.user.blobs, self.blobs, before, strict=True):
            if not np.array_equal(blob.data, value.detach().cpu().numpy()):
                value.data.copy_(torch.from_numpy(blob.data))
            if not np.array_equal(blob.diff, old):
                if value.grad is None:
                    value.grad = torch.zeros_like(value, requires_grad=False)
                value.grad.copy_(torch.from_numpy(blob.diff))

    def load_bottoms(self, inputs: Sequence[Tensor]) -> None:
        """Copy bottoms to where the class finds them."""
        for blob, values in zip(self.seen, inputs, strict=False):
            blob.reshape(*values.shape)
            blob.put(values)

    def compute(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The class's reshape and forward on bottoms and learnable blobs."""
        self.load_bottoms(inputs)
        with self.own_blobs():
            self.call("reshape", self.seen, self.made)
            self.call("forward", self.seen, self.made)
        like = inputs[0] if inputs else torch.empty(0)
        return tuple(torch.from_numpy(blob.data.copy()).to(like) for blob in self.made)

    def differentiate(
        self,
        inputs: Sequence[Tensor],
        tops: Sequence[Tensor],
        grads: Sequence[Tensor],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """The class's backward: gradients of bottoms and learnable blobs."""
        self.load_bottoms(inputs)
        for blob in self.seen:
            blob.diff[...] = 0
        for blob, values, grad in zip(self.made, tops, grads, strict=True):
            blob.reshape(*values.shape)
            blob.put(values)
            blob.diff[...] = grad.detach().cpu().numpy()
        bottoms = len(self.seen)
        with self.own_blobs() as before:
            self.call("backward", self.made, list(wanted[:bottoms]), self.seen)
            own = [blob.diff - old for blob, old in zip(self.user.blobs, before, strict=False)]
            for blob, old, want in zip(self.user.blobs, before, wanted[bottoms:], strict=False):
                if want:  # autograd adds the difference
                    blob.diff[...] = old
        found = [*(blob.diff.copy() for blob in self.seen), *own]
        return [
            torch.from_numpy(grad).to(values) if want else None
            for grad, values, want in zip(found, inputs, wanted, strict=True)
        ]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Run the class."""
        tops: tuple[Tensor, ...] = _Run.apply(self, *bottoms, *self.blobs)
        return tops

    def emit(self, e: Emitter, bottoms: Sequence[str], tops: Sequence[str]) -> None:
        """Nothing in ONNX can run it."""
        self.refuse(f"runs the Python class {self.where}, which has no ONNX form; replace it.")

    def macs(self, shapes: Sequence[Shape]) -> int | None:
        """Unknown."""
        return None
