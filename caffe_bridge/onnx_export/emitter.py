"""What layers emit into: nodes, initializers and names of one ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from caffe_bridge.errors import ExportError, printable
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import Layer

#: A dimension: its size, or the name of a size that varies with the batch.
Dim = int | str
#: First opset in which a reduction takes its axes as an input instead of an attribute.
_AXES_INPUT = {"ReduceSum": 13}
_AXES_INPUT_DEFAULT = 18


class GraphEmitter:
    """Collects nodes and initializers; implements the ``Emitter`` protocol of the layers.

    Args:
        opset: ONNX operator set.
        shapes: shape of every value at the example batch size.
        dims: the same with names for the axes that vary with the batch.
        batch: example batch size.
        outputs: values that must exist under their own name.
    """

    def __init__(
        self,
        opset: int,
        shapes: dict[str, Shape],
        dims: dict[str, tuple[Dim, ...]],
        batch: int,
        outputs: set[str],
    ) -> None:
        self.opset = opset
        self.form = ""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.node_layers: dict[str, str] = {}
        self.defined: set[str] = set()
        self._node_names: set[str] = set()
        self._prefixes: set[str] = set()
        self._shapes, self._dims, self._batch, self._outputs = shapes, dims, batch, outputs
        self._aliases: dict[str, str] = {}
        self._blob_names: dict[int, str] = {}
        self._layer: Layer | None = None
        self._first = 0
        self._prefix = ""

    def begin(self, layer: Layer, form: str = "") -> None:
        """Start a layer, to be stated in a form of its choice (see ``Layer.forms``).

        Further layers of one name are called ``name#1``, ``name#2`` ...
        """
        self.form = form
        own = prefix = printable(layer.name) or layer.spec.type
        count = 0
        while prefix in self._prefixes:
            count += 1
            prefix = f"{own}#{count}"
        self._prefixes.add(prefix)
        self._layer, self._first, self._prefix = layer, len(self.nodes), prefix

    def finish(self) -> None:
        """Name the layer's nodes: the last one carries the layer's name, helpers a suffix."""
        made = self.nodes[self._first :]
        for node in made:
            name = self._prefix if node is made[-1] else f"{self._prefix}/{node.op_type}"
            while name in self._node_names:
                name += "_"
            self._node_names.add(name)
            node.name = name
            self.node_layers[name] = self._prefix

    def resolve(self, value: str) -> str:
        """The name under which a value really exists."""
        while value in self._aliases:
            value = self._aliases[value]
        return value

    def op(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: int | Sequence[str] = 1,
        **attributes: Any,
    ) -> list[str]:
        """Add a node; see the ``Emitter`` protocol."""
        if isinstance(outputs, int):
            stem = f"{self._prefix}/{op_type}:{len(self.nodes)}"
            outputs = [stem if outputs == 1 else f"{stem}.{i}" for i in range(outputs)]
        given = {key: value for key, value in attributes.items() if value is not None}
        names = [self.resolve(name) for name in inputs]
        self.nodes.append(helper.make_node(op_type, names, list(outputs), **given))
        self.defined.update(outputs)
        return list(outputs)

    def constant(self, value: np.ndarray, hint: str) -> str:
        """Add an initializer of the current layer."""
        name = f"{self._prefix}.{hint}"
        array = np.asarray(value, order="C")
        made = numpy_helper.from_array(array, name)
        while name in self.initializers or name in self._shapes:
            found = self.initializers.get(name)
            if found is not None and (found.data_type, found.dims, found.raw_data) == (
                made.data_type, made.dims, made.raw_data,
            ):  # fmt: skip
                return name
            name += "_"
        made.name = name
        self.initializers[name] = made
        return name

    def blob(self, index: int) -> str:
        """The initializer of learnable blob ``index``; shared blobs are stored once."""
        if self._layer is None:
            raise ExportError("an initializer was asked for outside a layer.")
        value = self._layer.blobs[index]
        if id(value) not in self._blob_names:
            array = value.detach().cpu().numpy().astype(np.float32)
            self._blob_names[id(value)] = self.constant(array, f"blob{index}")
        return self._blob_names[id(value)]

    def reduce(
        self,
        op_type: str,
        source: str,
        axes: Sequence[int],
        target: str | None = None,
        keepdims: bool = True,
    ) -> str:
        """Add a Reduce* node with its axes where the opset wants them."""
        outputs = 1 if target is None else [target]
        if self.opset >= _AXES_INPUT.get(op_type, _AXES_INPUT_DEFAULT):
            axes_name = self.constant(np.array(axes, np.int64), "axes")
            return self.op(op_type, [source, axes_name], outputs, keepdims=int(keepdims))[0]
        return self.op(op_type, [source], outputs, axes=list(axes), keepdims=int(keepdims))[0]

    def alias(self, source: str, target: str) -> None:
        """Let ``target`` stand for ``source``; a graph output gets an Identity node."""
        if target in self._outputs:
            self.op("Identity", [source], [target])
        else:
            self._aliases[target] = source
            self.defined.add(target)

    def shape(self, value: str) -> Shape:
        """Shape of a value of the net at the example batch size."""
        return self._shapes[value]

    def reshape(self, source: str, shape: Sequence[int], target: str | None = None) -> str:
        """Add a Reshape whose batch axis stays dynamic.

        Raises:
            ExportError: more than one axis varies with the batch in a way Reshape cannot say.
        """
        sizes = [int(size) for size in shape]
        dims = self._dims.get(target or "")
        source_dims = self._dims.get(source)
        if any(isinstance(dim, str) for dim in dims or ()):
            sizes = self._dynamic(dims or (), source_dims)
        elif dims is None and sizes:
            if isinstance((source_dims or (0,))[0], str):
                follows = sizes[0] == self._shapes[source][0]
            else:
                follows = source_dims is None and sizes[0] == self._batch
            sizes[0] = 0 if follows else sizes[0]
        outputs = 1 if target is None else [target]
        return self.op("Reshape", [source, self.constant(np.array(sizes, np.int64), "shape")],
                       outputs)[0]  # fmt: skip

    def _dynamic(self, dims: tuple[Dim, ...], source: tuple[Dim, ...] | None) -> list[int]:
        sizes: list[int] = []
        free = 0
        for position, dim in enumerate(dims):
            same = source is not None and position < len(source) and source[position] == dim
            if isinstance(dim, int):
                sizes.append(dim)
            elif same or (source is None and position == 0 and "*" not in dim):
                sizes.append(0)
            else:
                sizes.append(-1)
                free += 1
        if free > 1 and self._layer is not None:
            self._layer.refuse(
                f"reshapes to {dims}, where {free} sizes vary with the batch; export with a fixed "
                "batch (--static)."
            )
        return sizes

    def value_info(self, name: str) -> onnx.ValueInfoProto:
        """Type and (partly symbolic) shape of a value of the net."""
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, self._dims[name])
