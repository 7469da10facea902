"""pycaffe's Net on top of the layer-by-layer executor."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caffe_bridge.errors import BlobError, BridgeError
from caffe_bridge.graph import NetSpec, Shape, load_net
from caffe_bridge.layers.base import Layer
from caffe_bridge.layers.data_layer import DataLayer
from caffe_bridge.net import LearnableBlob, build, copy_weights, save, share_weights
from caffe_bridge.pycaffe.batches import BatchMethods
from caffe_bridge.pycaffe.blob import Blob, ParamBlob, param_blob
from caffe_bridge.pycaffe.executor import Executor
from caffe_bridge.schema import Record

TRAIN, TEST = 0, 1
_PHASES = {TRAIN: "TRAIN", TEST: "TEST"}


def _fits(shape: Shape, wanted: Shape) -> bool:
    """Whether numpy assigns an array of this shape to the other."""
    try:
        np.broadcast_to(np.empty(shape, np.bool_), wanted)
    except ValueError:
        return False
    return True


class LayerView:
    """What pycaffe shows of a layer: its ``type`` and learnable ``blobs``."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    @property
    def blobs(self) -> list[ParamBlob]:
        """Learnable blobs; the same object for the same (shared) blob."""
        return [param_blob(b) for b in self._layer.blobs]

    @property
    def type(self) -> str:
        """The layer's type string."""
        return self._layer.spec.type


class Net(BatchMethods):
    """A net with persistent blobs.

    Forms: ``Net(prototxt, phase, level=0, stages=[...], weights=...)`` and the older
    ``Net(prototxt, weights, phase)``, each by position or by name. Beyond pycaffe: ``seed`` of the
    fillers, and ``data_workers`` as in :class:`caffe_bridge.net.Net`.

    Raises:
        BridgeError: the files cannot be read or do not fit, or the arguments are of no form.
    """

    def __init__(
        self,
        network_file: str | os.PathLike[str] | Record | NetSpec,
        *args: Any,
        phase: int | None = None,
        level: int = 0,
        stages: Sequence[str] | None = None,
        weights: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        data_workers: int | None = None,
    ) -> None:
        old = bool(args) and isinstance(args[0], str | os.PathLike)
        names = ("weights", "phase") if old else ("phase", "level", "stages", "weights")
        if len(args) > len(names):
            raise BridgeError(f"Net takes {', '.join(names)} after the prototxt; found {args!r}.")
        given = dict(zip(names, args))
        phase, level = given.get("phase", phase), given.get("level", level)
        stages, weights = given.get("stages", stages), given.get("weights", weights)
        if isinstance(network_file, NetSpec):
            spec = network_file
        else:
            if phase not in _PHASES:
                raise BridgeError("Net needs a phase: pass caffe.TRAIN or caffe.TEST.")
            spec = load_net(network_file, _PHASES[phase], int(level), tuple(stages or ()))
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.built = build(spec, generator)
        for layer in self.built.layers:
            if isinstance(layer, DataLayer):
                layer.use_workers(data_workers)
        self.executor = Executor(self.built)
        self.blobs: OrderedDict[str, Blob] = OrderedDict(self.executor.blobs)
        self.layers = [LayerView(layer) for layer in self.built.layers]
        self._layer_names = [layer.name for layer in self.built.layers]
        self.layer_dict = OrderedDict(zip(self._layer_names, self.layers))
        if weights is not None:
            self.copy_from(weights)

    @property
    def name(self) -> str:
        """The net's name."""
        return self.built.spec.name

    @property
    def params(self) -> OrderedDict[str, list[ParamBlob]]:
        """Learnable blobs by layer name."""
        return OrderedDict((n, v.blobs) for n, v in self.layer_dict.items() if v.blobs)

    @property
    def inputs(self) -> list[str]:
        """Blobs of Input layers."""
        return [
            value.blob
            for node, layer in zip(self.built.graph.nodes, self.built.layers, strict=True)
            if layer.is_input and not layer.has_source
            for value in node.outputs
        ]

    @property
    def outputs(self) -> list[str]:
        """Blobs that no layer reads."""
        return [value.blob for value in self.built.graph.outputs]

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """Tops by layer name."""
        nodes = self.built.graph.nodes
        return OrderedDict((n.layer.name, [v.blob for v in n.outputs]) for n in nodes)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """Bottoms by layer name."""
        nodes = self.built.graph.nodes
        return OrderedDict((n.layer.name, [v.blob for v in n.inputs]) for n in nodes)

    @property
    def learnable(self) -> list[LearnableBlob]:
        """Learnable blobs with their multipliers, in Caffe's order."""
        return self.built.learnable

    def _index(self, name: str | None, default: int) -> int:
        if name is None:
            return default
        if name not in self._layer_names:
            raise BlobError(f"the net has no layer '{name}'; it has {self._layer_names}.")
        return self._layer_names.index(name)

    def _feed(self, arrays: dict[str, Any], wanted: list[str], gradient: bool) -> None:
        """As pycaffe's: every one of the blobs ``wanted``, in the blob's batch size."""
        if arrays and set(arrays) != set(wanted):
            what = "diffs of the outputs" if gradient else "inputs"
            raise BlobError(f"the {what} are {wanted}, given are {list(arrays)}; give them all.")
        for name, values in arrays.items():
            blob = self.blobs[name]
            target = blob.diff if gradient else blob.data
            array = np.asarray(values, np.float32)
            if array.shape[:1] != target.shape[:1] or not _fits(array.shape, target.shape):
                raise BlobError(
                    f"blob '{name}' has shape {target.shape}, the given array {array.shape}; "
                    "reshape the blob or the array first."
                )
            target[...] = array

    def forward(
        self,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: Any,
    ) -> OrderedDict[str, np.ndarray]:
        """Run layers ``start`` to ``end`` after copying ``kwargs`` into the input blobs.

        Returns:
            Live views of the outputs (or of the end layer's tops) and of ``blobs``.
        """
        last = len(self.layers) - 1
        first, final = self._index(start, 0), self._index(end, last)
        self._feed(kwargs, self.inputs, gradient=False)
        self.executor.forward(first, final)
        names = self.top_names[end] if end is not None else self.outputs
        return OrderedDict((n, self.blobs[n].data) for n in [*names, *(blobs or ())])

    def backward(
        self,
        diffs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: Any,
    ) -> OrderedDict[str, np.ndarray]:
        """Back-propagate from layer ``start`` down to ``end``; ``kwargs`` set top diffs.

        Returns:
            Live views of the input diffs (or of the end layer's bottoms) and of ``diffs``.
        """
        first = self._index(start, len(self.layers) - 1)
        final = self._index(end, 0)
        self._feed(kwargs, self.outputs, gradient=True)
        self.executor.backward(first, final)
        names = self.bottom_names[end] if end is not None else self.inputs
        return OrderedDict((n, self.blobs[n].diff) for n in [*names, *(diffs or ())])

    def forward_backward(self) -> float:
        """One forward and backward pass; returns the total loss."""
        loss = self.executor.forward(0, len(self.layers) - 1)
        self.executor.backward(len(self.layers) - 1, 0)
        return loss

    def evaluate(self) -> float:
        """A forward pass; returns the total loss."""
        return self.executor.forward(0, len(self.layers) - 1)

    def fetch(self, blob: str) -> torch.Tensor:
        """A blob's values as a tensor."""
        return self.blobs[blob].tensor

    def load(self, weights: str | os.PathLike[str]) -> list[str]:
        """Copy weights by layer name; returns the layers that found none."""
        missing = copy_weights(self.built, weights)
        for blob in self.executor.param_blobs():
            blob.changed()
        return missing

    def clear_param_diffs(self) -> None:
        """Set the gradients of all learnable blobs to zero."""
        for blob in self.built.learnable:
            if blob.value.grad is not None:
                blob.value.grad.zero_()
                param_blob(blob.value).settle()

    def reshape(self) -> None:
        """Propagate the shapes of the input blobs."""
        self.executor.reshape()

    def copy_from(self, path: str | os.PathLike[str]) -> None:
        """Copy weights by layer name from a caffemodel or .h5.

        Raises:
            WeightError: blobs do not fit.
        """
        self.load(path)

    def save(self, path: str | os.PathLike[str], diffs: Sequence[Tensor] = ()) -> None:
        """Write the weights, with a ``diff`` for each learnable blob where they are given."""
        self.executor.push()
        save(self.built, path, diffs)

    def share_with(self, other: Net) -> None:
        """Use the other net's learnable blobs for layers of the same name."""
        share_weights(self.built, other.built)
