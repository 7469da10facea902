"""Small ONNX files for the measuring tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save


class Graph:
    """Collects nodes and seeded constants."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, *shape: int) -> str:
        values = self.generator.standard_normal(shape).astype(np.float32) * np.float32(0.1)
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def op(self, op_type: str, inputs: Sequence[str], output: str, name: str, **given: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **given))
        return output

    def conv(self, source: str, value: str, name: str, out: int, into: int, size: int) -> str:
        weights = [self.constant(f"{name}.w", out, into, size, size)]
        weights.append(self.constant(f"{name}.b", out))
        return self.op("Conv", [source, *weights], value, name, pads=[size // 2] * 4)

    def write(
        self,
        path: Path,
        output: str,
        layers: dict[str, str] | None = None,
        batch: int | str = "N",
        output_rank: int = 2,
    ) -> Path:
        shape = [batch, *(f"d{i}" for i in range(1, output_rank))]
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, 16, 16])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        if layers is not None:
            helper.set_model_props(model, {"caffe_layers": json.dumps(layers)})
        save(model, path)
        return path


def small_net(path: Path, lowrank: bool = False, batch: int | str = "N", seed: int = 0) -> Path:
    """Eleven layers with ReLUs in place; ``lowrank`` decomposes conv2."""
    g = Graph(seed)
    g.conv("data", "conv1@conv1", "conv1", 32, 3, 5)
    g.op("Relu", ["conv1@conv1"], "conv1", "relu1")
    g.op("MaxPool", ["conv1"], "pool1", "pool1", kernel_shape=[2, 2], strides=[2, 2])
    g.op("LRN", ["pool1"], "norm1", "norm1", size=5)
    if lowrank:
        g.conv("norm1", "conv2_lowrank", "conv2_lowrank", 16, 32, 3)
        g.conv("conv2_lowrank", "conv2@conv2", "conv2_linear", 64, 16, 1)
    else:
        g.conv("norm1", "conv2@conv2", "conv2", 64, 32, 3)
    g.op("Mul", ["conv2@conv2", g.constant("scale2.a", 64, 1, 1)], "conv2@scale2m", "scale2/Mul")
    g.op("Add", ["conv2@scale2m", g.constant("scale2.b", 64, 1, 1)], "conv2@scale2", "scale2")
    g.op("Relu", ["conv2@scale2"], "conv2", "relu2")
    g.op("Flatten", ["conv2"], "ip1.flat", "ip1/Flatten")
    g.op("Gemm", ["ip1.flat", g.constant("ip1.w", 50, 64 * 64), g.constant("ip1.b", 50)],
         "ip1@ip1", "ip1", transB=1)  # fmt: skip
    g.op("Relu", ["ip1@ip1"], "ip1", "relu3")
    g.op("Gemm", ["ip1", g.constant("ip2.w", 10, 50), g.constant("ip2.b", 10)], "ip2", "ip2",
         transB=1)  # fmt: skip
    g.op("Softmax", ["ip2"], "prob", "prob")
    layers = {node.name: node.name.split("/")[0] for node in g.nodes}
    return g.write(path, "prob", layers, batch)
