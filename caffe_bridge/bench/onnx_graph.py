"""The nodes of an ONNX file, and which Caffe layer a node of the optimised graph stands for.

onnxruntime runs another graph than the file holds, and names its nodes after what it had at hand:

* a node that is kept, or a convolution fused with its activation, keeps its name;
* a matrix product fused with its activation is called ``fused NAME``;
* MatMul and Add joined are ``NAME/MatMulAddFusion``;
* a node moved to the blocked layout is ``VALUE_nchwc`` after the *value* that it makes, which after
  a fusion is the top of the activation, not of the convolution;
* a node without a name is ``LRN_3``: its operator and its place in the file;
* copies of nodes and of layout transposes end in ``_token_7``, shared ones in ``/duplicated``;
* reorders between layouts, casts and quantisation stand for no layer at all.

The nodes are read from the wire format, so that weights are never touched.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from caffe_bridge.errors import SchemaError
from caffe_bridge.files import require_file
from caffe_bridge.schema import wire

#: Time of nodes that belong to no layer.
RUNTIME = "(runtime)"
_MODEL_GRAPH, _GRAPH_NODE = 7, 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP = 1, 2, 3, 4
_NO_LAYER = {
    "ReorderInput", "ReorderOutput", "QuantizeLinear", "DequantizeLinear", "MemcpyFromHost",
    "MemcpyToHost", "DynamicQuantizeLinear",
}  # fmt: skip
_BLOCKED = "_nchwc"
_ENDING = re.compile(r"(_nchwc|_nhwc|_token_\d+|/duplicated|/\w*Fusion\w*/?)$")
_AFFIXES = ("Fused", "QLinear", "Nhwc", "Q")
_STEPS = 6


@dataclass(frozen=True)
class OnnxNode:
    """A node of an ONNX file: its name, operator and the names of its values."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def _node(data: memoryview, at: int, end: int) -> OnnxNode:
    strings: dict[int, list[str]] = {}
    for number, _, begin, stop in wire.walk(data, at, end):
        if number in (_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP):
            strings.setdefault(number, []).append(bytes(data[begin:stop]).decode("utf-8"))
    return OnnxNode(
        name=strings.get(_NODE_NAME, [""])[0],
        op_type=strings.get(_NODE_OP, [""])[0],
        inputs=tuple(strings.get(_NODE_INPUT, [])),
        outputs=tuple(strings.get(_NODE_OUTPUT, [])),
    )


def read_nodes(path: str | os.PathLike[str]) -> list[OnnxNode]:
    """The nodes of an ONNX file in order, without its weights.

    Raises:
        SchemaError: missing file, or no ONNX model.
    """
    found = require_file(path, "ONNX")
    with (
        found.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as file,
        memoryview(file) as data,
    ):
        try:
            return [
                _node(data, begin, stop)
                for number, _, graph, graph_end in wire.walk(data, 0, len(data))
                if number == _MODEL_GRAPH
                for field, _, begin, stop in wire.walk(data, graph, graph_end)
                if field == _GRAPH_NODE
            ]
        except (wire.WireError, UnicodeDecodeError) as error:
            raise SchemaError(f"{found}: is no ONNX model ({error}).") from None


def _plain(op_type: str) -> str:
    for affix in _AFFIXES:
        op_type = op_type.removeprefix(affix)
    return op_type


class LayerMap:
    """Finds the Caffe layer of a node of onnxruntime's optimised graph.

    Args:
        nodes: the nodes of the file.
        layers: layer name by node name (the model's ``caffe_layers`` entry); a node that it lacks
            counts as a layer of its own, its operator at the end cut off (``ip1/Flatten``); one
            without a name is called after its first value.
    """

    def __init__(self, nodes: Sequence[OnnxNode], layers: Mapping[str, str] | None = None) -> None:
        self._layers = dict(layers or {})
        self._nodes = {n.name or f"{n.op_type}_{i}": n for i, n in enumerate(nodes)}
        self._producers = {value: node for node in nodes for value in node.outputs if value}
        self.layers = list(dict.fromkeys(self.layer_of(node) for node in nodes))

    def layer_of(self, node: OnnxNode) -> str:
        """The layer of a node of the file."""
        if node.name in self._layers:
            return self._layers[node.name]
        if node.op_type in _NO_LAYER:
            return RUNTIME
        if not node.name:
            return node.outputs[0] if node.outputs else f"({node.op_type})"
        return re.sub(rf"/{re.escape(node.op_type)}_*\d*$", "", node.name)

    def find(self, name: str, op_type: str) -> str:
        """The layer of a profiled node, or ``RUNTIME``.

        Args:
            name: the node's name in the optimised graph.
            op_type: its operator there.
        """
        if op_type in _NO_LAYER:
            return RUNTIME
        blocked = False
        while name not in self._nodes:
            ending = _ENDING.search(name)
            if ending is not None:
                blocked |= ending[1] == _BLOCKED
                name = name[: ending.start()]
            elif name.startswith("fused "):
                name = name.removeprefix("fused ")
            else:
                break
            if blocked and name in self._producers:
                return self.layer_of(self._origin(self._producers[name], op_type))
        if name in self._nodes:
            return self.layer_of(self._nodes[name])
        if name in self._producers:
            return self.layer_of(self._origin(self._producers[name], op_type))
        if not name:
            return f"({op_type})"
        return self._longest(name)

    def _origin(self, node: OnnxNode, op_type: str) -> OnnxNode:
        """The nearest node upstream with that operator: what the fused node really computes."""
        wanted = _plain(op_type)
        layer = [node]
        for _ in range(_STEPS):
            for candidate in layer:
                if _plain(candidate.op_type) == wanted:
                    return candidate
            layer = [
                self._producers[value]
                for one in layer
                for value in one.inputs
                if value in self._producers
            ]
        return node

    def _longest(self, name: str) -> str:
        """The node with the longest name that begins this one, at a word's end."""
        fitting = [
            known
            for known in self._nodes
            if name.startswith(known) and not name[len(known) : len(known) + 1].isalnum()
        ]
        return self.layer_of(self._nodes[max(fitting, key=len)]) if fitting else RUNTIME
