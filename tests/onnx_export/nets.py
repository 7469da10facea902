"""Nets as text, and small helpers to look at models."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from caffe_bridge.graph import parse_net
from caffe_bridge.net import Net


def entry(name: str, *shape: int) -> str:
    """An Input layer."""
    dims = " ".join(f"dim: {size}" for size in shape)
    return (
        f'layer {{ name: "{name}" type: "Input" top: "{name}" '
        f"input_param {{ shape {{ {dims} }} }} }}\n"
    )


def layer(kind: str, name: str, bottoms: str, tops: str, more: str = "") -> str:
    """A layer; bottoms and tops are names separated by spaces."""
    wires = " ".join(
        [f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()]
    )
    return f'layer {{ name: "{name}" type: "{kind}" {wires} {more} }}\n'


def fc(name: str, bottom: str, top: str, outputs: int = 3, more: str = "") -> str:
    """A fully connected layer with a seeded filler."""
    filler = 'weight_filler { type: "xavier" }'
    param = f"inner_product_param {{ num_output: {outputs} {filler} }}"
    return layer("InnerProduct", name, bottom, top, f"{param} {more}")


def conv(name: str, bottom: str, top: str, outputs: int = 4, more: str = "") -> str:
    """A 3x3 convolution with a seeded filler."""
    filler = 'weight_filler { type: "xavier" }'
    param = f"convolution_param {{ num_output: {outputs} kernel_size: 3 {filler} {more} }}"
    return layer("Convolution", name, bottom, top, param)


def net(text: str, seed: int = 0) -> Net:
    """The TEST net of a text."""
    made = Net(parse_net(text), seed=seed)
    made.eval()
    return made


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes and names of sizes."""
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def names(values: Sequence[object]) -> list[str]:
    """Names of nodes, values or initializers."""
    return [value.name for value in values]  # type: ignore[attr-defined]


SMALL = (
    entry("data", 2, 3, 6, 6)
    + conv("conv1", "data", "conv1")
    + layer("ReLU", "relu1", "conv1", "conv1")
    + fc("ip", "conv1", "ip")
    + layer("Softmax", "prob", "ip", "prob")
)
